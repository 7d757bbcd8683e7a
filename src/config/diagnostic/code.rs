//! Every kind of thing that can be wrong with a configuration, as a stable token.

use std::fmt;

use serde::{Serialize, Serializer};

macro_rules! codes {
    (
        errors { $( $(#[doc = $error_doc:literal])+ $error:ident = $error_token:literal; )+ }
        warnings { $( $(#[doc = $doc:literal])+ $warning:ident = $token:literal; )+ }
    ) => {
        /// What kind of thing is wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $( $(#[doc = $error_doc])+ $error, )+
            $( $(#[doc = $doc])+ $warning, )+
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$error,)+ $(Self::$warning,)+];

            /// The tokens of those that warnings have.
            pub(in crate::config) const WARNINGS: &'static [&'static str] = &[$($token,)+];

            /// The stable token: in what `tidegate check` prints, and in `server.allow_warnings`.
            pub fn token(self) -> &'static str {
                match self {
                    $(Self::$error => $error_token,)+
                    $(Self::$warning => $token,)+
                }
            }
        }
    };
}

codes! {
    errors {
        /// The file is no TOML.
        Syntax = "syntax";
        /// Nobody knows this key.
        UnknownKey = "unknown-key";
        /// A number where there should be a string, say.
        Type = "type";
        /// A value that its key does not take.
        Value = "value";
        /// A name of a listener or upstream that could not be told apart in logs and metrics.
        Name = "name";
        /// Something that must be there is not.
        Missing = "missing";
        /// Two things that exclude each other.
        Conflict = "conflict";
        /// Something that is there twice.
        Duplicate = "duplicate";
        /// A name that leads nowhere.
        Dangling = "dangling";
        /// A variable that the environment does not have.
        Environment = "environment";
        /// A file that cannot be read, or has something else in it.
        File = "file";
    }
    warnings {
        /// What can never match. An error, unless it is so only because of redirects to https.
        Unreachable = "unreachable";
        /// A key that does nothing in this version.
        NotInEffect = "not-in-effect";
        /// A key that does nothing where it stands.
        NoEffect = "no-effect";
        /// An upstream that no route leads to.
        Unused = "unused";
        /// A host of a route that an earlier route takes all requests of.
        Shadowed = "shadowed";
        /// Who is asking is believed of whoever connects.
        TrustsEverybody = "trusts-everybody";
        /// Pages of any site may connect in the name of whoever looks at them.
        AnyOrigin = "any-origin";
        /// Operators' interface where everybody may connect.
        OpenAdmin = "open-admin";
        /// A key that every user of the machine can read or write.
        LooseMode = "loose-mode";
        /// A certificate whose time is over.
        Expired = "expired";
        /// Cookies or tickets that only the process that made them understands.
        UnsharedKey = "unshared-key";
        /// Fewer local ports than tunnels are wanted.
        SourcePorts = "source-ports";
        /// Fewer open files than tunnels are wanted.
        Descriptors = "descriptors";
        /// Tunnels that hardly live.
        ShortMaxAge = "short-max-age";
        /// Tunnels that were opened together come back together.
        NoJitter = "no-jitter";
        /// Quiet tunnels that are left open longer than what is in front leaves them.
        LongIdle = "long-idle";
        /// Pings that come too late to keep a tunnel.
        LatePing = "late-ping";
        /// A check by plain HTTP of what seems to speak WebSocket only.
        HttpCheck = "http-check";
    }
}

impl Code {
    /// That of a warning, by its token.
    pub(in crate::config) fn of_warning(token: &str) -> Option<Self> {
        let mut known = Self::ALL.iter().copied();
        known.find(|code| code.token() == token && code.may_warn())
    }

    /// Whether warnings have it.
    pub fn may_warn(self) -> bool {
        Self::WARNINGS.contains(&self.token())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.token())
    }
}
