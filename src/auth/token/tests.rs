//! Tests of what tokens must say.

use serde_json::json;

use super::*;
use crate::auth::testing::{AUDIENCE, ISSUER, TestKey, claims, now};

fn verifier() -> TokenVerifier {
    let audience = ["game".into(), AUDIENCE.into()];
    TokenVerifier::new(ISSUER, &audience, Duration::from_secs(5))
}

#[test]
fn claims_are_required_and_checked() {
    let key = TestKey::ed();
    let keys = KeySet::published(&[key.public()]);
    let seconds = 2_000_000_000_u64;
    for (name, value, fault) in [
        ("iss", None, Some(TokenFault::Missing("iss"))),
        (
            "iss",
            Some(json!("https://id.example.com/")),
            Some(TokenFault::Issuer),
        ),
        (
            "iss",
            Some(json!([ISSUER])),
            Some(TokenFault::ClaimType("iss")),
        ),
        ("aud", None, Some(TokenFault::Missing("aud"))),
        ("aud", Some(json!("other")), Some(TokenFault::Audience)),
        ("aud", Some(json!([])), Some(TokenFault::Audience)),
        ("aud", Some(json!(["other", "game"])), None),
        (
            "aud",
            Some(json!([1, "game"])),
            Some(TokenFault::ClaimType("aud")),
        ),
        ("aud", Some(json!(1)), Some(TokenFault::ClaimType("aud"))),
        ("exp", None, Some(TokenFault::Missing("exp"))),
        ("exp", Some(json!(seconds + 1)), None),
        ("exp", Some(json!(seconds as f64 + 0.5)), None),
        ("exp", Some(json!(seconds)), Some(TokenFault::Expired)),
        ("exp", Some(json!(0)), Some(TokenFault::Expired)),
        ("exp", Some(json!(-1)), Some(TokenFault::ClaimType("exp"))),
        (
            "exp",
            Some(json!("2000000060")),
            Some(TokenFault::ClaimType("exp")),
        ),
        ("exp", Some(json!(null)), Some(TokenFault::ClaimType("exp"))),
        (
            "exp",
            Some(json!(u64::MAX)),
            Some(TokenFault::ClaimType("exp")),
        ),
        (
            "exp",
            Some(json!(1e300)),
            Some(TokenFault::ClaimType("exp")),
        ),
        ("nbf", Some(json!(seconds + 5)), None),
        ("nbf", Some(json!(seconds + 6)), Some(TokenFault::NotYet)),
        ("nbf", Some(json!("0")), Some(TokenFault::ClaimType("nbf"))),
        ("iat", Some(json!(seconds + 5)), None),
        (
            "iat",
            Some(json!(seconds + 6)),
            Some(TokenFault::IssuedLater),
        ),
        ("iat", Some(json!(true)), Some(TokenFault::ClaimType("iat"))),
        ("sub", None, None),
        ("sub", Some(json!(7)), Some(TokenFault::ClaimType("sub"))),
    ] {
        let mut claims = claims();
        let all = claims.as_object_mut().unwrap();
        all.remove(name);
        if let Some(value) = &value {
            all.insert(name.to_owned(), value.clone());
        }
        let found = verifier().verify(&keys, &key.token(&claims), now());
        assert_eq!(found.err(), fault, "{name} {value:?}");
    }
}

#[test]
fn what_is_verified_is_what_the_token_says() {
    let key = TestKey::ed();
    let keys = KeySet::published(&[key.public()]);
    let mut claims = claims();
    claims["iat"] = json!(1_999_999_999);
    claims["role"] = json!(["player"]);
    let token = verifier()
        .verify(&keys, &key.token(&claims), now())
        .unwrap();
    let second = Duration::from_secs(1);
    let expected = VerifiedToken {
        subject: Some("me".into()),
        expires: now() + 60 * second,
        issued: Some(now() - second),
        claims: claims.as_object().unwrap().clone(),
    };
    assert_eq!(token, expected);
    // The clock goes on.
    let last = now() + 59 * second;
    assert!(verifier().verify(&keys, &key.token(&claims), last).is_ok());
    let after = verifier().verify(&keys, &key.token(&claims), now() + 60 * second);
    assert_eq!(after, Err(TokenFault::Expired));
}

/// A reader that takes the first of two claims of one name would see another token than one that takes the last.
#[test]
fn a_claim_that_counts_stands_once() {
    let key = TestKey::ed();
    let keys = KeySet::published(&[key.public()]);
    let claims = claims().to_string();
    for doubled in [
        r#""exp":9000000000,"#,
        r#""iss":"https://evil.invalid","#,
        r#""aud":"x","#,
    ] {
        let claims = claims.replacen('{', &format!("{{{doubled}"), 1);
        let token = key.token_of_text(&claims);
        let found = verifier().verify(&keys, &token, now());
        assert_eq!(found, Err(TokenFault::Malformed), "{claims}");
    }
}
