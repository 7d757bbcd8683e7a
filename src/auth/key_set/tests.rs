//! Tests of signatures and of the choice among keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::*;
use crate::auth::testing::{TestKey, claims};
use crate::config::key_set::KeyMaterial;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn set(keys: &[&TestKey]) -> KeySet {
    let keys: Vec<PublishedKey> = keys.iter().map(|key| key.public()).collect();
    KeySet::published(&keys)
}

fn secret() -> KeySet {
    KeySet::secret(&Secret::new(Zeroizing::new(SECRET.to_vec())))
}

/// Verifies a token that no worker has seen before.
fn verify(keys: &KeySet, token: &str) -> Result<Map<String, Value>, TokenFault> {
    let genuine = keys.verify(token, &VerifiedTokens::default());
    genuine.map(|token| token.claims)
}

fn fault(keys: &KeySet, token: &str) -> Option<TokenFault> {
    verify(keys, token).err()
}

#[test]
fn keys_of_every_kind_verify_what_they_have_signed() {
    let keys = [
        TestKey::ed(),
        TestKey::p256(),
        TestKey::p384(),
        TestKey::rsa(false),
        TestKey::rsa(true),
    ];
    let all = set(&keys.each_ref());
    for key in &keys {
        let token = key.token(&claims());
        assert_eq!(Value::Object(verify(&all, &token).unwrap()), claims());
        let (message, signature) = token.rsplit_once('.').unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        bytes[7] ^= 1;
        let forged = format!("{message}.{}", URL_SAFE_NO_PAD.encode(bytes));
        assert_eq!(fault(&all, &forged), Some(TokenFault::Signature));
        assert_eq!(
            fault(&all, &format!("{message}.")),
            Some(TokenFault::Signature)
        );
    }
    let token = TestKey::secret(SECRET).token(&claims());
    assert!(verify(&secret(), &token).is_ok());
    let other = TestKey::secret(&SECRET[1..]).token(&claims());
    assert_eq!(fault(&secret(), &other), Some(TokenFault::NoKeyVerifies));
}

/// The attacks that let the token choose how it is verified.
#[test]
fn a_token_does_not_choose_its_algorithm() {
    let rsa = TestKey::rsa(false);
    let keys = set(&[&rsa]);
    let id = json!({ "kid": "rs256" });
    for algorithm in ["none", "None", "NONE", "", "RS257"] {
        let header = json!({ "alg": algorithm, "kid": "rs256" });
        let token = rsa.token_with(&header, &claims());
        assert_eq!(
            fault(&keys, &token),
            Some(TokenFault::Malformed),
            "{algorithm}"
        );
        let (message, _) = token.rsplit_once('.').unwrap();
        assert_eq!(
            fault(&keys, &format!("{message}.")),
            Some(TokenFault::Malformed)
        );
    }
    // The public key as a secret, in the forms that it may have.
    let KeyMaterial::Rsa { n, e } = rsa.public().material else {
        unreachable!();
    };
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n",
        URL_SAFE_NO_PAD.encode(&n)
    );
    for public in [&*n, &*[&*n, &*e].concat(), pem.as_bytes()] {
        let swapped = TestKey::secret(public).token_with(&id, &claims());
        assert_eq!(fault(&keys, &swapped), Some(TokenFault::Algorithm));
    }
    // The same key with another padding or hash than the set states.
    for algorithm in ["PS256", "RS384", "ES256", "EdDSA"] {
        let header = json!({ "alg": algorithm });
        let token = rsa.token_with(&header, &claims());
        assert_eq!(
            fault(&keys, &token),
            Some(TokenFault::Algorithm),
            "{algorithm}"
        );
    }
    // A token with its own key.
    let own = TestKey::ed();
    let KeyMaterial::Ed(x) = own.public().material else {
        unreachable!();
    };
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(x) });
    let header = json!({ "jwk": jwk, "kid": "own", "jku": "https://evil.invalid/" });
    let token = own.token_with(&header, &claims());
    assert_eq!(fault(&keys, &token), Some(TokenFault::UnknownKey));
    // A secret verifies nothing but HMAC.
    assert_eq!(
        fault(&secret(), &rsa.token(&claims())),
        Some(TokenFault::UnknownKey)
    );
}

/// RFC 9864 gives the algorithm a name that says which curve it is.
#[test]
fn ed25519_has_two_names() {
    let key = TestKey::ed();
    let keys = set(&[&key]);
    for (algorithm, expected) in [
        ("EdDSA", None),
        ("Ed25519", None),
        ("Ed448", Some(TokenFault::Malformed)),
        ("ed25519", Some(TokenFault::Malformed)),
    ] {
        let token = key.token_with(&json!({ "alg": algorithm }), &claims());
        assert_eq!(fault(&keys, &token), expected, "{algorithm}");
    }
}

/// Keys that are no points of their curve, or no numbers that RSA could use.
#[test]
fn a_key_that_is_not_valid_verifies_nothing() {
    let [ed, p256, rsa] = [TestKey::ed(), TestKey::p256(), TestKey::rsa(false)];
    let zeros = |length| [&[4][..], &vec![0; length]].concat();
    for (key, material) in [
        (&p256, KeyMaterial::Ec(zeros(64))),
        (&p256, KeyMaterial::Ec(zeros(96))),
        (&p256, KeyMaterial::Ec(Vec::new())),
        (&ed, KeyMaterial::Ed(vec![0; 31])),
        (&ed, KeyMaterial::Ec(zeros(64))),
        (
            &rsa,
            KeyMaterial::Rsa {
                n: vec![0; 256],
                e: vec![1],
            },
        ),
        (
            &rsa,
            KeyMaterial::Rsa {
                n: vec![0xff; 256],
                e: Vec::new(),
            },
        ),
    ] {
        let invalid = PublishedKey {
            material,
            ..key.public()
        };
        let keys = KeySet::published(&[invalid]);
        let token = key.token(&claims());
        assert_eq!(fault(&keys, &token), Some(TokenFault::Signature));
    }
}

#[test]
fn extensions_are_refused() {
    let key = TestKey::ed();
    let keys = set(&[&key]);
    for crit in [json!(["exp"]), json!(["b64"]), json!([])] {
        let header = json!({ "crit": crit, "b64": true, "exp": 1 });
        let token = key.token_with(&header, &claims());
        assert_eq!(fault(&keys, &token), Some(TokenFault::Critical), "{crit}");
    }
    for invalid in [json!("exp"), json!(null)] {
        let token = key.token_with(&json!({ "crit": invalid }), &claims());
        assert_eq!(fault(&keys, &token), Some(TokenFault::Malformed));
    }
    for plain in [json!(false), json!(0), json!("true")] {
        let token = key.token_with(&json!({ "b64": plain }), &claims());
        assert_eq!(fault(&keys, &token), Some(TokenFault::Malformed));
    }
    let token = key.token_with(&json!({ "b64": true, "kid": 1 }), &claims());
    assert_eq!(fault(&keys, &token), Some(TokenFault::Malformed));
}

#[test]
fn a_token_names_its_key_or_is_tried_with_a_few() {
    let (ed, p256) = (TestKey::ed(), TestKey::p256());
    let keys = set(&[&ed, &p256]);
    let nameless = json!({ "kid": null });
    assert!(verify(&keys, &ed.token_with(&nameless, &claims())).is_ok());
    assert!(verify(&keys, &p256.token_with(&nameless, &claims())).is_ok());
    let unknown = ed.token_with(&json!({ "kid": "new" }), &claims());
    assert_eq!(fault(&keys, &unknown), Some(TokenFault::UnknownKey));
    let other = ed.token_with(&json!({ "kid": "es256" }), &claims());
    assert_eq!(fault(&keys, &other), Some(TokenFault::Algorithm));
    // The issuer may have given the id of an old key to a new one of another kind.
    assert!(TokenFault::Algorithm.may_be_for_newer_keys());
    let reused = PublishedKey {
        id: Some("es256".into()),
        ..ed.public()
    };
    assert!(verify(&KeySet::published(&[reused]), &other).is_ok());
    assert!(!TokenFault::Signature.may_be_for_newer_keys());
    let stranger = TestKey::ed().token_with(&nameless, &claims());
    assert_eq!(fault(&keys, &stranger), Some(TokenFault::NoKeyVerifies));
    let stranger = TestKey::ed().token(&claims());
    assert_eq!(fault(&keys, &stranger), Some(TokenFault::Signature));

    // Keys without ids may be anybody's.
    let without_id = PublishedKey {
        id: None,
        ..ed.public()
    };
    let keys = KeySet::published(&[p256.public(), without_id.clone()]);
    assert!(verify(&keys, &ed.token(&claims())).is_ok());
    // A new key may be of another kind than all that are known.
    for (known, id, expected) in [
        (p256.public(), None, TokenFault::NoKeyVerifies),
        (without_id.clone(), Some("new"), TokenFault::UnknownKey),
    ] {
        let signer = if id.is_none() { &ed } else { &p256 };
        let token = signer.token_with(&json!({ "kid": id }), &claims());
        let found = fault(&KeySet::published(&[known]), &token);
        assert_eq!(found, Some(expected));
        assert!(expected.may_be_for_newer_keys());
    }
    let stranger = TestKey::ed().token(&claims());
    let keys_without_id = KeySet::published(std::slice::from_ref(&without_id));
    assert_eq!(
        fault(&keys_without_id, &stranger),
        Some(TokenFault::UnknownKey)
    );
}

/// The last of many keys is not reached any more, whether they have no id or all the same one.
#[test]
fn keys_that_could_have_signed_a_token_are_tried_up_to_a_number() {
    let (ed, other) = (TestKey::ed(), TestKey::ed());
    let invalid = PublishedKey {
        material: KeyMaterial::Ed(vec![0; 31]),
        ..ed.public()
    };
    for id in [None, Some("eddsa")] {
        let token = ed.token_with(&json!({ "kid": id }), &claims());
        for (others, invalids, is_found) in [
            (0, 0, true),
            (1, 0, true),
            (MAX_TRIES - 1, 0, true),
            (MAX_TRIES, 0, false),
            // Those that verify nothing are not tried.
            (MAX_TRIES - 1, MAX_TRIES, true),
        ] {
            let mut keys = vec![other.public(); others];
            keys.extend(vec![invalid.clone(); invalids]);
            keys.push(ed.public());
            for key in &mut keys {
                key.id = id.map(Into::into);
            }
            let found = verify(&KeySet::published(&keys), &token);
            let expected = (!is_found).then_some(match id {
                None => TokenFault::NoKeyVerifies,
                Some(_) => TokenFault::Signature,
            });
            assert_eq!(found.err(), expected, "{others} {invalids} {id:?}");
        }
    }
}

#[test]
fn what_is_not_a_token_is_malformed() {
    let key = TestKey::ed();
    let keys = set(&[&key]);
    let token = key.token(&claims());
    let parts: Vec<&str> = token.split('.').collect();
    let deep = format!("{}1{}", "[".repeat(2000), "]".repeat(2000));
    let deep_header = format!(r#"{{"alg":"EdDSA","kid":"eddsa","a":{deep}}}"#);
    let deep_header = URL_SAFE_NO_PAD.encode(deep_header);
    let doubled_header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","alg":"EdDSA","kid":"eddsa"}"#);
    for text in [
        "",
        ".",
        "..",
        "a.b.c",
        "\u{e9}.\u{fffd}.x",
        parts[0],
        &parts[..2].join("."),
        &format!("{token}.x"),
        &format!(" {token}"),
        &format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
        &format!("{}.{}.{}", deep_header, parts[1], parts[2]),
        &format!("{}.{}.{}", doubled_header, parts[1], parts[2]),
        &format!("{}.{}.{}=", parts[0], parts[1], parts[2]),
        &format!("{}.{}.{}.{}", parts[0], parts[0], parts[1], parts[2]),
        &"a".repeat(MAX_TOKEN_BYTES + 1),
    ] {
        assert_eq!(fault(&keys, text), Some(TokenFault::Malformed), "{text}");
    }
    for claims in [json!([]), json!("a"), json!(null), json!(1)] {
        assert_eq!(
            fault(&keys, &key.token(&claims)),
            Some(TokenFault::Malformed),
            "{claims}"
        );
    }
    // Too deep, although it is signed.
    let mut nested = json!(1);
    for _ in 0..200 {
        nested = json!([nested]);
    }
    let token = key.token(&json!({ "a": nested }));
    assert_eq!(fault(&keys, &token), Some(TokenFault::Malformed));
}

proptest! {
    #[test]
    fn no_change_to_a_token_goes_unnoticed(
        at in any::<prop::sample::Index>(),
        other in any::<char>(),
        is_inserted in any::<bool>(),
    ) {
        let key = TestKey::ed();
        let keys = set(&[&key]);
        let token = key.token(&claims());
        let mut changed: Vec<char> = token.chars().collect();
        let at = at.index(changed.len());
        if is_inserted {
            changed.insert(at, other);
        } else {
            changed[at] = other;
        }
        let changed: String = changed.into_iter().collect();
        prop_assert_eq!(verify(&keys, &changed).is_ok(), changed == token);
    }

    #[test]
    fn text_of_any_kind_is_refused(text in ".{0,200}") {
        prop_assert!(verify(&secret(), &text).is_err());
    }
}
