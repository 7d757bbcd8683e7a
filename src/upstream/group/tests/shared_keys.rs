//! Sticky cookies while nodes agree on their keys.

use super::*;
use crate::config::model::{Secret, SharedKeys};

#[test]
fn a_cookie_leads_back_while_nodes_change_their_keys() {
    let mut settings = of(&["127.0.0.1:1", "127.0.0.1:2"]);
    settings.sticky = Some(sticky());
    let nodes = [(); 2].map(|()| {
        let known = Arc::<Registry>::default();
        let upstream = Upstream::new(&settings, &known).unwrap();
        (known, upstream)
    });
    let share = |(known, upstream): &(Arc<Registry>, Upstream), fills: &[u8], current| {
        let secret = |fill: &u8| Secret::new(vec![*fill; 32].into());
        known.set_sticky_keys(&SharedKeys {
            secrets: fills.iter().map(secret).collect(),
            current,
        });
        upstream.share_sticky_keys();
    };
    let issued = |(_, upstream): &(Arc<Registry>, Upstream)| Affinity {
        sticky: upstream.tag_of(&upstream.endpoints()[1]),
        ..Affinity::default()
    };
    let leads_back = |(_, upstream): &(Arc<Registry>, Upstream), affinity| {
        let picked = |_| label(upstream.pick(affinity, &[])) == "127.0.0.1:2";
        (0..4).all(picked)
    };
    let [a, b] = &nodes;
    let own = issued(a);
    assert!(leads_back(a, own) && !leads_back(b, own));
    share(a, &[1], None);
    share(b, &[1], None);
    assert_eq!(own.sticky, issued(a).sticky);
    share(a, &[1], Some(0));
    let shared = issued(a);
    assert!(leads_back(a, shared) && leads_back(b, shared));
    assert!(leads_back(a, own), "what it has issued before");
    share(b, &[1, 2], Some(1));
    assert!(leads_back(b, shared) && !leads_back(a, issued(b)));
    share(a, &[1, 2], Some(0));
    assert!(leads_back(a, issued(b)));
    // An upstream that a reload brings has the keys from the start.
    let (known, _) = a;
    let new = (Arc::clone(known), Upstream::new(&settings, known).unwrap());
    assert!(leads_back(&new, shared) && leads_back(&new, issued(b)));
    let mut explicit = settings.clone();
    explicit.sticky.as_mut().unwrap().secret = Some(Secret::new(vec![9; 32].into()));
    let file = Upstream::new(&explicit, known).unwrap();
    let alone = Upstream::new(&explicit, &Arc::default()).unwrap();
    assert_eq!(
        file.tag_of(&file.endpoints()[1]),
        alone.tag_of(&alone.endpoints()[1])
    );
}
