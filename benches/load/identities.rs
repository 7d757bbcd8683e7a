//! What does it cost to know who a client is? Handshakes on a route without `auth`, with tokens of several kinds and with
//! a service take turns in one process, in slices, so that all of them see the same machine.
//!
//! A new token is verified by the arithmetic of its algorithm. One that the worker has seen before is not: clients that
//! reconnect bring the same one until it expires.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tokio::task::JoinHandle;

use super::rig::client::{Client, frame};
use super::scenario::{AT_ONCE, Results, come_and_leave};
use super::target::Target;
use super::{measure, service};

/// The number of slices of each kind, in turn.
const TURNS: usize = 10;

/// The number of different tokens of clients that come back.
const KNOWN: usize = 100;

/// Makes the signature of a message.
type SignMessage = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A kind of handshakes.
struct Kind {
    name: String,
    path: &'static str,
    /// The fields that identify each client; the first ones come again if there are not enough.
    clients: Vec<Rc<str>>,
    busy: Duration,
}

/// Runs the measurement, with `count` handshakes of each kind.
pub(crate) async fn measure(target: &Target, client: &Client, count: usize) -> Results {
    let signers = signers(target.folder());
    target
        .reload_with(&config(&service::start().to_string()))
        .await;
    let mut kinds = vec![kind("no auth", "/none", vec!["".into()])];
    for (algorithm, path, sign) in &signers {
        let tokens = |number| (0..number).map(|client| bearer(algorithm, sign, client));
        // Those that were known before the measurement are not new any more.
        let new = tokens(KNOWN + count).skip(KNOWN).collect();
        kinds.push(kind(&format!("{algorithm}, new"), path, new));
        kinds.push(kind(
            &format!("{algorithm}, known"),
            path,
            tokens(KNOWN).collect(),
        ));
    }
    kinds.push(kind("service", "/service", vec!["Cookie: me\r\n".into()]));
    for each in kinds.iter().filter(|it| it.clients.len() <= KNOWN) {
        // Both workers know these tokens then, or nearly all of them, and code paths are warm.
        handshakes(client, each, 0, 10 * KNOWN).await;
    }
    for turn in 0..TURNS {
        for each in &mut kinds {
            let before = measure::cpu(target.pid());
            handshakes(client, each, turn * count / TURNS, count / TURNS).await;
            each.busy += measure::cpu(target.pid()) - before;
        }
    }
    let done = (count / TURNS * TURNS) as f64;
    let plain = kinds[0].busy;
    let mut results = Results::new();
    for each in &kinds {
        let cost = each.busy.as_secs_f64() * 1e6 / done;
        let ratio = each.busy.as_secs_f64() / plain.as_secs_f64();
        results.push((named(&format!("µs CPU, {}", each.name)), cost));
        results.push((named(&format!("to no auth, {}", each.name)), ratio));
    }
    results
}

fn named(name: &str) -> &'static str {
    Box::leak(name.into())
}

fn kind(name: &str, path: &'static str, clients: Vec<Rc<str>>) -> Kind {
    Kind {
        name: name.to_owned(),
        path,
        clients,
        busy: Duration::ZERO,
    }
}

/// `count` handshakes of the clients from number `first` on.
async fn handshakes(client: &Client, kind: &Kind, first: usize, count: usize) {
    let frame = Rc::new(frame(64, true));
    let tasks: Vec<JoinHandle<()>> = (0..AT_ONCE)
        .map(|task| {
            let (client, frame, path) = (client.clone(), Rc::clone(&frame), kind.path);
            let numbers = (first + task..first + count).step_by(AT_ONCE);
            let clients: Vec<Rc<str>> = numbers
                .map(|number| Rc::clone(&kind.clients[number % kind.clients.len()]))
                .collect();
            tokio::task::spawn_local(async move {
                for fields in clients {
                    come_and_leave(&client, path, &fields, &frame).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// The fields of a client with a token of its own.
fn bearer(algorithm: &str, sign: &SignMessage, client: usize) -> Rc<str> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let header = json!({ "alg": algorithm, "typ": "JWT", "kid": algorithm });
    let claims = json!({
        "iss": "https://id.invalid", "aud": "bench", "sub": format!("user-{client}"),
        "iat": now.as_secs(), "exp": now.as_secs() + 3600,
        "scope": "openid profile", "realm_access": { "roles": ["player", "moderator"] },
    });
    let parts = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let message = parts.join(".");
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("Authorization: Bearer {message}.{signature}\r\n").into()
}

/// Makes a key of each kind, and writes into `folder` what tidegate verifies with.
fn signers(folder: &Path) -> [(&'static str, &'static str, SignMessage); 3] {
    let secret = [7; 32];
    let file = folder.join("secret.key");
    fs::write(&file, secret).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    let shared = hmac::Key::new(hmac::HMAC_SHA256, &secret);

    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = RsaPublicKeyComponents::<Vec<u8>>::from(rsa.public_key());
    let [n, e] = [public.n, public.e].map(|number| URL_SAFE_NO_PAD.encode(number));

    let random = SystemRandom::new();
    let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let made = EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap();
    let ec = EcdsaKeyPair::from_pkcs8(curve, made.as_ref()).unwrap();
    let point = &ec.public_key().as_ref()[1..];
    let [x, y] = [&point[..32], &point[32..]].map(|part| URL_SAFE_NO_PAD.encode(part));
    let keys = json!({ "keys": [
        { "kty": "RSA", "kid": "RS256", "n": n, "e": e },
        { "kty": "EC", "crv": "P-256", "kid": "ES256", "x": x, "y": y },
    ] });
    fs::write(folder.join("keys.json"), keys.to_string()).unwrap();
    [
        (
            "HS256",
            "/secret",
            Box::new(move |message| hmac::sign(&shared, message).as_ref().to_vec()),
        ),
        (
            "RS256",
            "/keys",
            Box::new(move |message| {
                let mut signature = vec![0; rsa.public_modulus_len()];
                let random = SystemRandom::new();
                rsa.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }),
        ),
        (
            "ES256",
            "/keys",
            Box::new(move |message| ec.sign(&random, message).unwrap().as_ref().to_vec()),
        ),
    ]
}

/// A route without `auth` and one for each kind.
fn config(service: &str) -> String {
    let jwt = |name: &str, keys: &str| {
        format!(
            "[auth.{name}]\n\
             jwt = {{ issuer = \"https://id.invalid\", audience = [\"bench\"], {keys} }}\n"
        )
    };
    let route = |name: &str, auth: &str| {
        format!("[[route]]\npath_prefix = \"/{name}\"\nupstream = \"backend\"\n{auth}\n")
    };
    [
        jwt("secret", "secret_file = \"secret.key\""),
        jwt("keys", "jwks_file = \"keys.json\""),
        "[auth.service]\nservice = { upstream = \"service\", path = \"/\", \
         response_headers = [\"remote-user\"], subject_header = \"remote-user\" }\n"
            .to_owned(),
        route("none", ""),
        route("secret", "auth = \"secret\""),
        route("keys", "auth = \"keys\""),
        route("service", "auth = \"service\""),
        format!("[upstream.service]\nendpoints = [\"{service}\"]\n"),
    ]
    .concat()
}
