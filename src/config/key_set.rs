//! Key sets (RFC 7517): the public keys of an issuer of tokens, in a file or as the issuer publishes them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

/// The largest key set, in bytes.
pub const MAX_KEY_SET_BYTES: usize = 256 * 1024;

/// The most keys of a set.
pub const MAX_KEYS: usize = 100;

/// The longest id of a key, in bytes.
const MAX_ID_BYTES: usize = 1024;

/// The lengths of RSA moduli that are accepted, in bytes: shorter ones are not safe, longer ones take too long.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// How a token is signed (RFC 7518 section 3.1, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// EdDSA on Curve25519.
    EdDsa,
}

use TokenAlgorithm::{
    EdDsa, Es256, Es384, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512,
};

/// What a secret is good for.
pub const SECRET_ALGORITHMS: &[TokenAlgorithm] = &[Hs256, Hs384, Hs512];

const RSA_ALGORITHMS: &[TokenAlgorithm] = &[Rs256, Rs384, Rs512, Ps256, Ps384, Ps512];

impl TokenAlgorithm {
    /// The algorithm of this name. `Ed25519` is the newer name of `EdDSA` with this curve (RFC 9864).
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Hs256,
            "HS384" => Hs384,
            "HS512" => Hs512,
            "RS256" => Rs256,
            "RS384" => Rs384,
            "RS512" => Rs512,
            "PS256" => Ps256,
            "PS384" => Ps384,
            "PS512" => Ps512,
            "ES256" => Es256,
            "ES384" => Es384,
            "EdDSA" | "Ed25519" => EdDsa,
            _ => return None,
        })
    }
}

/// A public key that verifies tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedKey {
    /// Its id, if it has one.
    pub id: Option<Box<str>>,
    /// What it verifies: the algorithm that the set states, or all of its kind.
    pub algorithms: Vec<TokenAlgorithm>,
    /// The key.
    pub material: KeyMaterial,
}

/// The numbers that a public key consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyMaterial {
    /// RSA.
    Rsa {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
    /// A point on P-256 or P-384, uncompressed (SEC 1 section 2.3.3).
    Ec(Vec<u8>),
    /// Ed25519.
    Ed(Vec<u8>),
}

/// Why a key set is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is too large.
    #[error("the key set is larger than {MAX_KEY_SET_BYTES} bytes")]
    TooLarge,
    /// It is not a key set.
    #[error("this is not a JSON Web Key Set: an object with a list `keys`")]
    Malformed,
    /// It has too many keys.
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooMany,
    /// It has no key that verifies anything.
    #[error(
        "the key set has no key for signatures of a supported kind: RSA from 2048 to 8192 bits, P-256, P-384, Ed25519"
    )]
    NoneUsable,
}

#[derive(Deserialize)]
struct WrittenSet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct WrittenKey {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The keys of a set that verify signatures. Others are skipped, as RFC 7517 section 5 asks for: keys for
/// encryption, of kinds that are not supported, and secrets, which have no place in what is published.
///
/// # Errors
/// [`KeySetError`].
pub fn parse(json: &[u8]) -> Result<Vec<PublishedKey>, KeySetError> {
    if json.len() > MAX_KEY_SET_BYTES {
        return Err(KeySetError::TooLarge);
    }
    let written: WrittenSet = serde_json::from_slice(json).map_err(|_| KeySetError::Malformed)?;
    if written.keys.len() > MAX_KEYS {
        return Err(KeySetError::TooMany);
    }
    let keys: Vec<PublishedKey> = written.keys.into_iter().filter_map(key).collect();
    match keys.is_empty() {
        true => Err(KeySetError::NoneUsable),
        false => Ok(keys),
    }
}

/// A key; `None` if it does not verify signatures.
fn key(written: Value) -> Option<PublishedKey> {
    let written: WrittenKey = serde_json::from_value(written).ok()?;
    let is_for_signatures = written.usage.as_deref().is_none_or(|usage| usage == "sig")
        && (written.key_ops.as_ref()).is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !is_for_signatures {
        return None;
    }
    let (material, possible) = material(&written)?;
    let algorithms = match written.alg.as_deref() {
        None => possible.to_vec(),
        Some(name) => {
            let stated = TokenAlgorithm::named(name)?;
            possible.contains(&stated).then(|| vec![stated])?
        }
    };
    let id = written.kid.map(String::into_boxed_str);
    (id.as_ref().is_none_or(|id| id.len() <= MAX_ID_BYTES)).then_some(PublishedKey {
        id,
        algorithms,
        material,
    })
}

/// The key itself, and the algorithms of its kind.
fn material(written: &WrittenKey) -> Option<(KeyMaterial, &'static [TokenAlgorithm])> {
    match (&*written.kty, written.crv.as_deref()) {
        ("RSA", _) => {
            let (n, e) = (number(written.n.as_ref())?, number(written.e.as_ref())?);
            let is_usable = RSA_BYTES.contains(&n.len()) && (1..=8).contains(&e.len());
            is_usable.then_some((KeyMaterial::Rsa { n, e }, RSA_ALGORITHMS))
        }
        ("EC", Some("P-256")) => Some((KeyMaterial::Ec(point(written, 32)?), &[Es256])),
        ("EC", Some("P-384")) => Some((KeyMaterial::Ec(point(written, 48)?), &[Es384])),
        ("OKP", Some("Ed25519")) => {
            let x = bytes(written.x.as_ref())?;
            (x.len() == 32).then_some((KeyMaterial::Ed(x), &[EdDsa]))
        }
        _ => None,
    }
}

fn bytes(text: Option<&String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
}

/// An unsigned number, without the zeros before it that some write.
fn number(text: Option<&String>) -> Option<Vec<u8>> {
    let bytes = bytes(text)?;
    let start = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes.get(start..)?.to_vec())
}

fn point(written: &WrittenKey, length: usize) -> Option<Vec<u8>> {
    let (x, y) = (bytes(written.x.as_ref())?, bytes(written.y.as_ref())?);
    let is_whole = x.len() == length && y.len() == length;
    is_whole.then(|| [&[4], &*x, &*y].concat())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn b64(length: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![7; length])
    }

    #[expect(clippy::needless_pass_by_value, reason = "the cases read better")]
    fn read(keys: Value) -> Result<Vec<PublishedKey>, KeySetError> {
        parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn a_key_verifies_what_its_kind_or_the_set_says() {
        let rsa =
            |alg: Option<&str>| json!({ "kty": "RSA", "n": b64(256), "e": "AQAB", "alg": alg });
        for (key, expected) in [
            (rsa(None), RSA_ALGORITHMS),
            (rsa(Some("PS384")), &[Ps384]),
            (rsa(Some("ES256")), &[]),
            (rsa(Some("RSA-OAEP")), &[]),
            (rsa(Some("HS256")), &[]),
            (json!({ "kty": "RSA", "n": b64(255), "e": "AQAB" }), &[]),
            (json!({ "kty": "RSA", "n": b64(1025), "e": "AQAB" }), &[]),
            (
                json!({ "kty": "RSA", "n": format!("AAAA{}", b64(255)), "e": "AQAB" }),
                &[],
            ),
            (
                json!({ "kty": "EC", "crv": "P-256", "x": b64(32), "y": b64(32) }),
                &[Es256],
            ),
            (
                json!({ "kty": "EC", "crv": "P-384", "x": b64(48), "y": b64(48) }),
                &[Es384],
            ),
            (
                json!({ "kty": "EC", "crv": "P-384", "x": b64(32), "y": b64(48) }),
                &[],
            ),
            (
                json!({ "kty": "EC", "crv": "P-521", "x": b64(66), "y": b64(66) }),
                &[],
            ),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(32) }),
                &[EdDsa],
            ),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(32), "alg": "Ed25519" }),
                &[EdDsa],
            ),
            (json!({ "kty": "OKP", "crv": "X25519", "x": b64(32) }), &[]),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(32), "use": "enc" }),
                &[],
            ),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(32), "use": "sig" }),
                &[EdDsa],
            ),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(32), "key_ops": ["sign"] }),
                &[],
            ),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(32), "key_ops": ["verify"] }),
                &[EdDsa],
            ),
            (json!({ "kty": "OKP", "crv": "Ed25519", "x": "?" }), &[]),
            (
                json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(32), "kid": "k".repeat(1025) }),
                &[],
            ),
            (json!({ "kty": "oct", "k": b64(32) }), &[]),
            (json!("key"), &[]),
        ] {
            let keys = read(json!([key]));
            let found = keys.as_ref().map_or(&[][..], |keys| &*keys[0].algorithms);
            assert_eq!(found, expected, "{key}");
        }
    }

    #[test]
    fn one_odd_key_does_not_spoil_the_others() {
        let good = json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(32), "kid": "a" });
        let keys = read(json!([{ "kty": 1 }, null, good, { "kty": "oct", "k": "" }])).unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].id.as_deref(), Some("a"));
    }

    #[test]
    fn what_is_not_a_usable_set_is_refused() {
        let good = json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(32) });
        assert_eq!(
            read(json!(vec![good.clone(); MAX_KEYS])).unwrap().len(),
            MAX_KEYS
        );
        assert_eq!(
            read(json!(vec![good; MAX_KEYS + 1])),
            Err(KeySetError::TooMany)
        );
        assert_eq!(read(json!([])), Err(KeySetError::NoneUsable));
        for text in [
            "",
            "[]",
            "{}",
            "<html>",
            r#"{"keys": 1}"#,
            &"[".repeat(10_000),
        ] {
            assert_eq!(
                parse(text.as_bytes()),
                Err(KeySetError::Malformed),
                "{text}"
            );
        }
        let large = " ".repeat(MAX_KEY_SET_BYTES + 1);
        assert_eq!(parse(large.as_bytes()), Err(KeySetError::TooLarge));
    }
}
