//! Why a token is not accepted.

/// Why a token is not accepted. The texts are for the access log: there is nothing of the token in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It is not a signed token, or it is too large, or it has parts that are not valid.
    #[error("it is not a valid signed token")]
    Malformed,
    /// It requires extensions that are not supported (RFC 7515 section 4.1.11).
    #[error("its header has `crit`, which is not supported")]
    Critical,
    /// The key of this id does not go with the algorithm in its header.
    #[error("the key that it names is not for the algorithm in its header")]
    Algorithm,
    /// No key has the id in its header, and no key without an id verifies it.
    #[error("no key has the id in its header, and none without an id verifies it")]
    UnknownKey,
    /// The signature is not that of the key that it names.
    #[error("its signature is wrong")]
    Signature,
    /// It names no key, and no key verifies it.
    #[error("it names no key, and no key verifies it")]
    NoKeyVerifies,
    /// A claim that is required is missing.
    #[error("it has no `{0}`")]
    Missing(&'static str),
    /// A claim has another type than RFC 7519 says.
    #[error("its `{0}` is not of the type that it must have")]
    ClaimType(&'static str),
    /// It is by another issuer.
    #[error("it is by another issuer")]
    Issuer,
    /// It is for another audience.
    #[error("it is for another audience")]
    Audience,
    /// It does not hold any more.
    #[error("it has expired")]
    Expired,
    /// It does not hold yet.
    #[error("it does not hold yet: `nbf` is in the future")]
    NotYet,
    /// It was issued later than now.
    #[error("it was not issued yet: `iat` is in the future")]
    IssuedLater,
    /// There are no keys: the issuer could not be asked so far.
    #[error("there are no keys yet: the issuer could not be asked so far")]
    NoKeys,
}

impl TokenFault {
    /// Whether newer keys of the issuer might verify the token.
    pub fn may_be_for_newer_keys(self) -> bool {
        match self {
            Self::UnknownKey | Self::NoKeyVerifies | Self::NoKeys => true,
            // The issuer may have given the id to a key of another kind since.
            Self::Algorithm => true,
            _ => false,
        }
    }
}
