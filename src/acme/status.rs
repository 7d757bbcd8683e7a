//! What is known of a managed certificate: what is served, what is planned, what went wrong.

use std::sync::Arc;
use std::time::SystemTime;

use crate::config::model::HostPattern;
use crate::net::managed_certificates::ServedCertificate;

/// A managed certificate, for operators and metrics.
#[derive(Debug, Clone)]
pub struct CertificateStatus {
    /// What distinguishes it from others.
    pub id: Arc<str>,
    /// The names that it is for.
    pub names: Vec<HostPattern>,
    /// The name of the authority in the configuration.
    pub authority: Arc<str>,
    /// What is served; `None` if nothing was issued yet.
    pub served: Option<Arc<ServedCertificate>>,
    /// How the latest attempt failed; `None` if it did not.
    pub failure: Option<OrderFailureStatus>,
    /// Why its folder cannot be used; `None` if it can.
    pub folder_error: Option<Arc<str>>,
    /// When the next attempt is due; `None` while keepers are suspended.
    pub next_attempt: Option<SystemTime>,
    /// Whether this process is ordering it now.
    pub is_ordering: bool,
}

/// A failed attempt to get a certificate.
#[derive(Debug, Clone)]
pub struct OrderFailureStatus {
    /// What went wrong, in one line.
    pub error: Box<str>,
    /// When.
    pub at: SystemTime,
    /// The attempts that have failed since the last success.
    pub in_a_row: u32,
}
