//! An issuer of tokens: its keys, the key set that it publishes, and tokens that it or a forger makes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::certificates::Authority;
use super::wire::Wire;

pub(crate) const ISSUER: &str = "https://id.example.com";

/// A time this many seconds from now, as tokens have it.
pub(crate) fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or(Duration::ZERO).as_secs();
    i64::try_from(now).unwrap() + seconds
}

/// Claims that are accepted for five minutes.
pub(crate) fn claims() -> Value {
    let exp = seconds_from_now(300);
    json!({ "iss": ISSUER, "aud": ["chat"], "sub": "me", "exp": exp, "role": ["player"] })
}

/// The claims with one of them changed; `null` removes it.
pub(crate) fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => {
            claims.as_object_mut().unwrap().remove(name);
        }
        value => claims[name] = value,
    }
    claims
}

/// Makes the signature of a message.
type Sign = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// A key of an issuer, or of a forger.
pub(crate) struct TokenKey {
    header: Value,
    /// The public half as a member of a key set.
    pub(crate) jwk: Value,
    sign: Sign,
}

impl TokenKey {
    pub(crate) fn rsa(id: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
        let [n, e] = [public.n, public.e].map(|number| URL_SAFE_NO_PAD.encode(number));
        Self {
            header: json!({ "alg": "RS256", "kid": id }),
            jwk: json!({ "kty": "RSA", "kid": id, "alg": "RS256", "use": "sig", "n": n, "e": e }),
            sign: Box::new(move |message| {
                let mut signature = vec![0; pair.public_modulus_len()];
                let random = SystemRandom::new();
                let signed = pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
                signed.unwrap();
                signature
            }),
        }
    }

    pub(crate) fn ec(id: &str) -> Self {
        let random = SystemRandom::new();
        let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let made = EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(curve, made.as_ref()).unwrap();
        let point = pair.public_key().as_ref()[1..].to_vec();
        let [x, y] = [&point[..32], &point[32..]].map(|part| URL_SAFE_NO_PAD.encode(part));
        Self {
            header: json!({ "alg": "ES256", "kid": id }),
            jwk: json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": x, "y": y }),
            sign: Box::new(move |message| pair.sign(&random, message).unwrap().as_ref().to_vec()),
        }
    }

    /// A key whose tokens are made by the library `jsonwebtoken`: see [`LibraryKey`].
    pub(crate) fn ed(id: &str) -> (Self, LibraryKey) {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let library = LibraryKey {
            id: id.to_owned(),
            key: jsonwebtoken::EncodingKey::from_ed_der(made.as_ref()),
        };
        let by_hand = Self {
            header: json!({ "alg": "EdDSA", "kid": id }),
            jwk: json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "x": x }),
            sign: Box::new(move |message| pair.sign(message).as_ref().to_vec()),
        };
        (by_hand, library)
    }

    /// A secret, for HS256.
    pub(crate) fn secret(secret: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self {
            header: json!({ "alg": "HS256" }),
            jwk: Value::Null,
            sign: Box::new(move |message| hmac::sign(&key, message).as_ref().to_vec()),
        }
    }

    /// A token with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({}), claims)
    }

    /// A token with these claims, whose header has these changes.
    pub(crate) fn token_with(&self, changes: &Value, claims: &Value) -> String {
        let mut header = self.header.clone();
        for (name, value) in changes.as_object().unwrap() {
            header[name] = value.clone();
        }
        let parts = [&header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let message = parts.join(".");
        let signature = URL_SAFE_NO_PAD.encode((self.sign)(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

/// A key of a library that tidegate does not use.
pub(crate) struct LibraryKey {
    id: String,
    key: jsonwebtoken::EncodingKey,
}

impl LibraryKey {
    /// A token with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

/// A key set with these keys.
pub(crate) fn key_set(keys: &[&TokenKey]) -> String {
    let keys: Vec<&Value> = keys.iter().map(|key| &key.jwk).collect();
    json!({ "keys": keys }).to_string()
}

/// A server that publishes a key set over TLS.
pub(crate) struct KeyServer {
    pub(crate) url: String,
    published: Arc<Published>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Published {
    keys: Mutex<String>,
    is_down: AtomicBool,
    asked: AtomicUsize,
}

impl KeyServer {
    /// Publishes these keys. Writes `ca.pem` to the folder, with which the server is verified.
    pub(crate) async fn start(folder: &Path, keys: &[&TokenKey]) -> Self {
        let authority = Authority::new();
        authority.write(&folder.join("ca.pem"));
        let tls = TlsAcceptor::from(authority.server(folder, &["127.0.0.1"], false));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/keys", listener.local_addr().unwrap());
        let published = Arc::<Published>::default();
        let serving = Arc::clone(&published);
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else {
                    return;
                };
                // One after the other: the keeper of the keys asks once at a time.
                if let Ok(stream) = tls.accept(socket).await {
                    serving.answer(Wire::over(stream)).await;
                }
            }
        });
        let server = Self {
            url,
            published,
            task,
        };
        server.publish(keys);
        server
    }

    /// From now on, these are the keys.
    pub(crate) fn publish(&self, keys: &[&TokenKey]) {
        *self.published.keys.lock().unwrap() = key_set(keys);
    }

    /// Whether requests get an error from now on.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.published.is_down.store(is_down, Ordering::Relaxed);
    }

    /// The requests so far.
    pub(crate) fn asked(&self) -> usize {
        self.published.asked.load(Ordering::Relaxed)
    }
}

impl Published {
    async fn answer(&self, mut wire: Wire) {
        if wire.head_or_end().await.is_none() {
            return;
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        let keys = self.keys.lock().unwrap().clone();
        let response = match self.is_down.load(Ordering::Relaxed) {
            true => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned(),
            false => format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {}\r\n\r\n{keys}",
                keys.len()
            ),
        };
        wire.send(response).await;
        wire.finish_anyway().await;
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
