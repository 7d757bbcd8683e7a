//! Why a command does not reach a running tidegate.

/// Why there is no connection, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreached {
    pub(super) why: String,
    pub(super) cure: String,
}

impl Unreached {
    /// With the advice to check whether the process runs, and where.
    pub(super) fn checking(why: String) -> Self {
        let cure = "check that it is running and that this is its `admin.bind`; set another address with \
                    --admin or TIDEGATE_ADMIN (unix:/path, ADDRESS:PORT or https://HOST:PORT)";
        Self {
            why,
            cure: cure.to_owned(),
        }
    }
}
