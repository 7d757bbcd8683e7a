//! Endpoints that have a name: operators use it in place of the address, and requests ask for it.

use serde_json::{Value, json};

use crate::harness::endpoint::Echo;
use crate::harness::operator::Operator;
use crate::harness::proxy::simple;

/// A route to these endpoints, which are called `game-1`, `game-2` and so on.
fn named(endpoints: &[&Echo]) -> String {
    let tables = endpoints.iter().enumerate().map(|(at, echo)| {
        format!(
            "{{ address = \"{}\", name = \"game-{}\" }}",
            echo.address,
            at + 1
        )
    });
    let tables: Vec<String> = tables.collect();
    simple(&[]).replace(
        "endpoints = []",
        &format!("endpoints = [{}]", tables.join(", ")),
    )
}

#[tokio::test]
async fn operators_use_the_name_of_an_endpoint() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let (proxy, operator) = Operator::start(&named(&[&one, &two])).await;
    let upstreams = operator.get("/v1/upstreams").await;
    let names = |upstreams: &Value| {
        let endpoints = upstreams[0]["endpoints"].as_array().unwrap().clone();
        let names = endpoints.into_iter().map(|it| it["name"].clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&upstreams), ["game-1", "game-2"]);

    let printed = operator.run(&["drain", "game-1"]).await;
    let expected = format!(
        "endpoint {} (game-1) of upstream main is drained",
        one.address
    );
    assert!(printed.out.starts_with(&expected), "{printed:?}");
    let _client = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    assert_eq!((one.open(), two.open()), (0, 1));

    let listed = operator.get("/v1/tunnels?endpoint=game-2").await;
    assert_eq!(listed["tunnels"][0]["endpoint_name"], "game-2");
    assert_eq!(listed["tunnels"][0]["endpoint"], two.address.to_string());
    let listed = operator.get("/v1/tunnels?endpoint=game-1").await;
    assert_eq!(listed["tunnels"], json!([]));
    for command in [&["status"][..], &["tunnels"]] {
        let printed = operator.run(command).await;
        assert!(printed.out.contains(" NAME "), "{}", printed.out);
        assert!(printed.out.contains(" game-2 "), "{}", printed.out);
    }
    let weighed = json!({ "endpoint": "game-2", "weight": 7 });
    let (status, weighed) = operator.post("/v1/endpoints/weight", &weighed).await;
    assert_eq!((status, &weighed["endpoint"]["weight"]), (200, &json!(7)));

    let asked = json!({ "filter": { "endpoint": "game-2" } });
    let (status, closed) = operator.post("/v1/tunnels/close", &asked).await;
    assert_eq!((status, &closed["closed"]), (200, &json!(1)));
    let asked = json!({ "filter": { "endpoint": "game-3" } });
    let (status, refused) = operator.post("/v1/tunnels/close", &asked).await;
    assert_eq!(status, 404, "{refused}");
}

/// The same name in two upstreams is two endpoints.
#[tokio::test]
async fn a_name_that_two_upstreams_have_must_be_told_apart() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let other = format!(
        "[[route]]\npath = \"/other\"\nupstream = \"other\"\n[upstream.other]\n\
         endpoints = [{{ address = \"{}\", name = \"game-1\" }}]\n",
        two.address
    );
    let (proxy, operator) = Operator::start(&(named(&[&one]) + &other)).await;
    let _client = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    let close = |filter: Value| json!({ "filter": filter });
    for (path, body) in [
        ("/v1/endpoints/drain", json!({ "endpoint": "game-1" })),
        ("/v1/tunnels/close", close(json!({ "endpoint": "game-1" }))),
    ] {
        let (status, refused) = operator.post(path, &body).await;
        assert_eq!(status, 409, "{refused}");
        let error = refused["error"].as_str().unwrap();
        assert!(error.contains("choose one of main, other"), "{error}");
    }
    let drained = json!({ "endpoint": "game-1", "upstream": "other" });
    let (status, drained) = operator.post("/v1/endpoints/drain", &drained).await;
    let endpoint = json!(two.address.to_string());
    assert_eq!((status, &drained["endpoint"]["endpoint"]), (200, &endpoint));
    let asked = close(json!({ "endpoint": "game-1", "upstream": "main" }));
    let (status, closed) = operator.post("/v1/tunnels/close", &asked).await;
    assert_eq!((status, &closed["closed"]), (200, &json!(1)));
}
