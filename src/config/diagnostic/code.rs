//! The codes of diagnostics: every kind of problem that a configuration can have, as a stable token.

use std::fmt;

use serde::{Serialize, Serializer};

macro_rules! codes {
    (
        errors { $( $(#[doc = $error_doc:literal])+ $error:ident = $error_token:literal; )+ }
        warnings { $( $(#[doc = $doc:literal])+ $warning:ident = $token:literal; )+ }
    ) => {
        /// The kind of a problem.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $( $(#[doc = $error_doc])+ $error, )+
            $( $(#[doc = $doc])+ $warning, )+
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$error,)+ $(Self::$warning,)+];

            /// The tokens of all codes that warnings can have.
            pub(in crate::config) const WARNINGS: &'static [&'static str] = &[$($token,)+];

            /// The stable token, which `tidegate check` prints and `server.allow_warnings` lists.
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
        /// The file is not valid TOML.
        Syntax = "syntax";
        /// The key does not exist.
        UnknownKey = "unknown-key";
        /// The value has the wrong type, such as a number instead of a string.
        Type = "type";
        /// The key does not accept this value.
        Value = "value";
        /// The name of a listener or upstream contains characters that are not allowed.
        Name = "name";
        /// A required key or table is missing.
        Missing = "missing";
        /// Two settings exclude each other.
        Conflict = "conflict";
        /// Something is defined twice.
        Duplicate = "duplicate";
        /// A name refers to nothing.
        Dangling = "dangling";
        /// An endpoint is the listener whose requests it would get.
        Loop = "loop";
        /// An environment variable is not set.
        Environment = "environment";
        /// A file cannot be read, or has the wrong content.
        File = "file";
    }
    warnings {
        /// A key has its name of the release before.
        RenamedKey = "renamed-key";
        /// Something can never match. This is an error, unless redirects to https are the only cause.
        Unreachable = "unreachable";
        /// A key has no effect together with the others.
        NoEffect = "no-effect";
        /// Text looks like a variable of another program, and stands for itself.
        NotExpanded = "not-expanded";
        /// A path looks like a pattern, and matches only itself.
        PathPattern = "path-pattern";
        /// No file matches a pattern of `include`.
        EmptyInclude = "empty-include";
        /// No route uses an upstream.
        Unused = "unused";
        /// An earlier route takes all requests for one host of a route.
        Shadowed = "shadowed";
        /// Every peer is trusted to state a client's address.
        TrustsEverybody = "trusts-everybody";
        /// Pages of any site may open WebSockets on behalf of their visitors.
        AnyOrigin = "any-origin";
        /// The admin interface is reachable from other machines.
        OpenAdmin = "open-admin";
        /// Tokens of the admin interface cross the network in plain text.
        PlainToken = "plain-token";
        /// What nodes share crosses the network in plain text.
        PlainStore = "plain-store";
        /// Every user of the machine can read or write a key.
        LooseMode = "loose-mode";
        /// A certificate has expired.
        Expired = "expired";
        /// A chain of certificates that clients may not be able to verify.
        CertificateChain = "certificate-chain";
        /// Certificates and hosts do not match.
        CertificateNames = "certificate-names";
        /// No listener has the port that a challenge of a certificate authority comes to.
        AcmePort = "acme-port";
        /// The authority requires an account that is not configured.
        AcmeAccount = "acme-account";
        /// A listener speaks TLS on the port of plain text, or the other way round.
        UsualPort = "usual-port";
        /// Only the process that issues cookies or tickets can read them.
        UnsharedKey = "unshared-key";
        /// There are fewer local ports than tunnels allowed.
        SourcePorts = "source-ports";
        /// The limit on open files is lower than the tunnels allowed require.
        Descriptors = "descriptors";
        /// Tunnels are closed after a very short time.
        ShortMaxAge = "short-max-age";
        /// Clients whose tunnels opened together reconnect together.
        NoJitter = "no-jitter";
        /// The proxy in front may close quiet tunnels before tidegate does.
        LongIdle = "long-idle";
        /// Pings come too late to keep a tunnel open.
        LatePing = "late-ping";
        /// Nothing finds out that a client or an endpoint is gone.
        NoLiveness = "no-liveness";
        /// A plain HTTP check asks an endpoint that seems to speak WebSocket only.
        HttpCheck = "http-check";
        /// A health check may take longer than the interval between two.
        SlowCheck = "slow-check";
        /// Clients choose the key of a limit themselves.
        ChosenKey = "chosen-key";
        /// A split divides the plain requests of one client.
        TornSessions = "torn-sessions";
        /// Nothing finds out whether the endpoints of an upstream work.
        Unchecked = "unchecked";
        /// Tunnels stay on a pod until it is killed.
        GracePeriod = "grace-period";
    }
}

impl Code {
    /// The code with this token, if warnings can have it.
    pub(in crate::config) fn of_warning(token: &str) -> Option<Self> {
        let mut known = Self::ALL.iter().copied();
        known.find(|code| code.token() == token && code.may_warn())
    }

    /// Whether warnings can have this code.
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
