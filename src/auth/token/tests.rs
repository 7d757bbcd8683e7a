//! Tests of what tokens must say.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::auth::testing::{AUDIENCE, ISSUER, TestKey, claims, now};

fn verifier() -> TokenVerifier {
    let audience = ["game".into(), AUDIENCE.into()];
    TokenVerifier::new(ISSUER, &audience, Duration::from_secs(5))
}

/// Verifies a token that no worker has seen before.
fn verify(keys: &KeySet, token: &str, now: SystemTime) -> Result<VerifiedToken, TokenFault> {
    verifier().verify(keys, token, &VerifiedTokens::default(), now)
}

#[test]
fn only_tokens_that_are_accepted_are_remembered() {
    let key = TestKey::ed();
    let keys = KeySet::published(&[key.public()]);
    let remembered = VerifiedTokens::default();
    let mut other = claims();
    other["aud"] = json!("other");
    let (ours, other) = (key.token(&claims()), key.token(&other));
    let is_remembered = |token: &str| {
        let digest = keys.verify(token, &remembered).unwrap().digest;
        remembered.contains(&digest)
    };
    let found = verifier().verify(&keys, &other, &remembered, now());
    assert_eq!(found, Err(TokenFault::Audience));
    assert!(!is_remembered(&other) && !is_remembered(&ours));
    assert!(verifier().verify(&keys, &ours, &remembered, now()).is_ok());
    assert!(is_remembered(&ours));
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
        let found = verify(&keys, &key.token(&claims), now());
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
    let token = verify(&keys, &key.token(&claims), now()).unwrap();
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
    assert!(verify(&keys, &key.token(&claims), last).is_ok());
    let after = verify(&keys, &key.token(&claims), now() + 60 * second);
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
        r#""role":"player","role":"moderator","#,
    ] {
        let claims = claims.replacen('{', &format!("{{{doubled}"), 1);
        let token = key.token_of_text(&claims);
        let found = verify(&keys, &token, now());
        assert_eq!(found, Err(TokenFault::Malformed), "{claims}");
    }
}

/// Tokens that are accepted, and tokens that are close to these without being accepted.
fn tokens(signers: &[&TestKey]) -> Vec<String> {
    let mut tokens = Vec::new();
    for signer in signers {
        let begin = now() - Duration::from_secs(60);
        let since = begin.duration_since(UNIX_EPOCH).unwrap().as_secs();
        for (exp, sub) in [(since + 30, "me"), (since + 90, "me"), (since + 90, "you")] {
            let mut claims = claims();
            claims["exp"] = json!(exp);
            claims["sub"] = json!(sub);
            tokens.push(signer.token(&claims));
        }
        let mut later = claims();
        later["nbf"] = json!(since + 60);
        tokens.push(signer.token(&later));
        let mut other = claims();
        other["aud"] = json!("other");
        tokens.push(signer.token(&other));
        tokens.push(signer.token_with(&json!({ "kid": null }), &claims()));
    }
    // The claims of one with the header or the signature of another, and texts that only begin like a token.
    let parts: Vec<Vec<&str>> = tokens.iter().map(|it| it.split('.').collect()).collect();
    let mut forged = Vec::new();
    for (one, other) in parts.iter().zip(parts.iter().skip(1)) {
        forged.push([one[0], other[1], one[2]].join("."));
        forged.push([one[0], one[1], other[2]].join("."));
        forged.push([one[0], one[1], one[2], ""].join("."));
        forged.push([one[0], one[1], ""].join("."));
    }
    tokens.extend(forged);
    tokens
}

/// Key sets one after another: a key that is removed, that comes back, and that another one replaces under its id.
fn key_sets(old: &TestKey, new: &TestKey) -> [KeySet; 4] {
    let [old, mut new] = [old, new].map(TestKey::public);
    new.id.clone_from(&old.id);
    [
        KeySet::published(std::slice::from_ref(&old)),
        KeySet::published(std::slice::from_ref(&new)),
        KeySet::published(&[old.clone(), new]),
        KeySet::published(&[old]),
    ]
}

proptest! {
    /// What a worker has verified before changes what a request costs, and nothing else.
    #[test]
    fn a_remembered_token_is_checked_like_a_new_one(
        requests in proptest::collection::vec((any::<usize>(), 0..4_usize, 0..120_u64), 1..200)
    ) {
        let [old, new] = [TestKey::ed(), TestKey::ed()];
        let (tokens, sets) = (tokens(&[&old, &new]), key_sets(&old, &new));
        let verified = VerifiedTokens::default();
        for (token, set, second) in requests {
            let token = &tokens[token % tokens.len()];
            let at = now() - Duration::from_secs(60) + Duration::from_secs(second);
            let found = verifier().verify(&sets[set], token, &verified, at);
            prop_assert_eq!(found, verify(&sets[set], token, at));
        }
    }
}

#[test]
fn a_remembered_token_expires_and_its_key_can_be_removed() {
    let [old, new] = [TestKey::p256(), TestKey::p256()];
    let [before, after, ..] = key_sets(&old, &new);
    let (token, verified) = (old.token(&claims()), VerifiedTokens::default());
    let verify = |keys, at| verifier().verify(keys, &token, &verified, at).err();
    let end = now() + Duration::from_secs(60);
    assert_eq!(verify(&before, now()), None);
    assert_eq!(verify(&before, now()), None);
    assert_eq!(verify(&after, now()), Some(TokenFault::Signature));
    assert_eq!(verify(&before, end), Some(TokenFault::Expired));
}
