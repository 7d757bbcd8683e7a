//! What binds a tunnel to the credential that it was opened with.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::incoming::IncomingRequest;
use super::recheck_list::Recheck;
use crate::auth::revocations::{SubjectTag, UnixSeconds, unix_seconds};
use crate::snapshot::Route;
use crate::tunnel::SWEEP_INTERVAL;
use crate::tunnel::bindings::TunnelBinding;

/// Before a certificate expires, its tunnels end within this span, so that clients do not come back all at once.
const CERTIFICATE_SPREAD: Duration = Duration::from_secs(30);

/// A tunnel has to be over when its credential is: a sweep notices the end, and the closing handshakes may take
/// three more.
const MARGIN: UnixSeconds = 4 * SWEEP_INTERVAL.as_secs() as UnixSeconds;

/// What the tunnel of this request is bound to: the first of the credentials to expire, and the subject.
pub(super) fn of(incoming: &IncomingRequest<'_>, route: &Route) -> TunnelBinding {
    let identity = incoming.identity();
    let credential = identity.and_then(|identity| identity.expires);
    let spread = route.auth.as_ref().map(|auth| auth.settings.spread);
    let credential = credential.zip(spread);
    let is_asked = route.settings.access.client_certificate.is_some();
    let certificate = incoming.certificate().filter(|_| is_asked);
    let certificate = certificate.map(|it| (it.not_after(), CERTIFICATE_SPREAD));
    let now = unix_seconds(SystemTime::now());
    let ends = [credential, certificate].into_iter().flatten();
    let ends = ends
        .map(|(expires, spread)| end_before(unix_seconds(expires), now, spread, fastrand::f64()));
    TunnelBinding {
        ends: ends.min(),
        subject: incoming.subject_tag().map(SubjectTag::get),
    }
}

/// What a service is to be asked again about the tunnel of this request.
pub(super) fn recheck(incoming: &IncomingRequest<'_>, route: &Route) -> Option<Recheck> {
    let auth = route.auth.as_ref()?;
    Some(Recheck {
        auth: Arc::clone(&auth.settings.name),
        subject: incoming.subject_tag().map(SubjectTag::get),
        question: incoming.identity()?.question.clone()?,
        interval: auth.settings.recheck?,
    })
}

/// A time within `spread` before `expires`, by a number from 0 to 1. For a credential that expires earlier than
/// that, within the time that is left.
pub fn end_before(
    expires: UnixSeconds,
    now: UnixSeconds,
    spread: Duration,
    chance: f64,
) -> NonZeroU32 {
    let latest = expires.saturating_sub(MARGIN);
    let left = latest.saturating_sub(now);
    let spread = f64::min(spread.as_secs_f64(), f64::from(left));
    let earlier = (spread * chance) as UnixSeconds;
    NonZeroU32::new(latest.saturating_sub(earlier)).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_tunnel_ends_within_the_spread_and_never_later(
            expires in 0..UnixSeconds::MAX,
            now in 0..UnixSeconds::MAX,
            spread in 0..100_000_u64,
            chance in 0.0..=1.0,
        ) {
            let spread = Duration::from_secs(spread);
            let end = end_before(expires, now, spread, chance).get();
            prop_assert!(end <= expires.saturating_sub(MARGIN).max(1));
            prop_assert!(u64::from(end) + spread.as_secs() + u64::from(MARGIN) >= u64::from(expires));
            let is_expired = expires <= now + MARGIN.min(UnixSeconds::MAX - now);
            prop_assert!(is_expired || end >= now);
        }
    }

    #[test]
    fn tunnels_opened_together_do_not_end_together() {
        let ends: Vec<u32> = (0..=10)
            .map(|step| {
                end_before(1000, 100, Duration::from_secs(30), f64::from(step) / 10.0).get()
            })
            .collect();
        assert_eq!(
            ends,
            [996, 993, 990, 987, 984, 981, 978, 975, 972, 969, 966]
        );
    }
}
