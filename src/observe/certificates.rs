//! The certificates of listeners as they are: what is served, until when, and what is planned.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::acme::status::OrderFailureStatus;

/// No certificate is mentioned earlier than this, however long its life is.
const EARLIEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The share of a certificate's life, in percent, from which what is left of it is little. Renewals are due at
/// a third.
const SOON: u32 = 20;

/// The share of a certificate's life, in percent, from which what is left of it is very little.
const VERY_SOON: u32 = 5;

/// A certificate of a listener.
#[derive(Debug, Clone)]
pub struct CertificateState {
    /// The listener; `admin.tls` for that of the admin interface.
    pub listener: Arc<str>,
    /// The names that it is for.
    pub names: Arc<[String]>,
    /// Where it comes from.
    pub source: CertificateSource,
    /// What is served; `None` if nothing was issued yet.
    pub served: Option<ServedValidity>,
    /// When tidegate renews it, if it does.
    pub next_renewal: Option<SystemTime>,
    /// How the latest attempt to renew it failed; `None` if it did not.
    pub failure: Option<OrderFailureStatus>,
    /// Why the folder that it is kept in cannot be used; `None` if it can, or if tidegate does not obtain it.
    pub folder_error: Option<Arc<str>>,
    /// Whether this process is obtaining it now.
    pub is_ordering: bool,
}

impl CertificateState {
    /// What is wrong with it, in one sentence; `None` if nothing is.
    pub fn problem(&self, now: SystemTime) -> Option<String> {
        let label = self.source.label();
        let time = humantime::format_rfc3339_seconds;
        let failure = self.failure.as_ref().map(|it| {
            let times = match it.in_a_row {
                0 | 1 => "once".to_owned(),
                times => format!("{times} times in a row"),
            };
            format!("obtaining it failed {times}: {}", it.error)
        });
        let next = self.next_renewal.filter(|_| failure.is_some());
        let next = next.map(|next| format!("the next attempt is at {}", time(next)));
        let folder = self.folder_error.as_ref();
        let folder = folder.map(|error| format!("its folder cannot be used: {error}"));
        let served = self.served.as_ref().filter(|it| !it.is_self_signed);
        let what = match served.map(|it| (it.life_left(now), it.not_after)) {
            None => "was not issued yet".to_owned(),
            Some((LifeLeft::Expired, end)) => format!("expired at {}", time(end)),
            Some((LifeLeft::Little | LifeLeft::VeryLittle, end)) => {
                format!("expires soon, at {}", time(end))
            }
            Some((LifeLeft::Enough, end)) if failure.is_some() || folder.is_some() => {
                format!("expires at {}", time(end))
            }
            Some((LifeLeft::Enough, _)) => return None,
        };
        let what = format!("certificate {label} {what}");
        let parts = [Some(what), folder, failure, next];
        Some(parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }
}

/// Where a certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// This file.
    File(Arc<str>),
    /// tidegate obtains it.
    Authority {
        /// The name of the authority in the configuration.
        name: Arc<str>,
        /// What distinguishes the certificate from others.
        id: Arc<str>,
    },
}

impl CertificateSource {
    /// The file, or what distinguishes a managed certificate from others: the name in metrics and logs.
    pub fn label(&self) -> &Arc<str> {
        match self {
            Self::File(file) => file,
            Self::Authority { id, .. } => id,
        }
    }
}

/// The issuer and the validity of a certificate that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedValidity {
    /// The issuer, as far as it is readable.
    pub issuer: Box<str>,
    /// The start of its validity.
    pub not_before: SystemTime,
    /// The end of its validity.
    pub not_after: SystemTime,
    /// Whether it only stands in for one that was not issued yet.
    pub is_self_signed: bool,
}

/// How much of a certificate's life is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LifeLeft {
    /// Enough.
    Enough,
    /// Little: it should have been renewed.
    Little,
    /// Very little.
    VeryLittle,
    /// None: it has expired.
    Expired,
}

impl ServedValidity {
    /// The share of its life that is left, from 0 to 1.
    pub fn share_left(&self, now: SystemTime) -> f64 {
        let life = self.not_after.duration_since(self.not_before);
        let left = self.not_after.duration_since(now).unwrap_or_default();
        match life {
            Ok(life) if !life.is_zero() => (left.as_secs_f64() / life.as_secs_f64()).min(1.0),
            _ => 0.0,
        }
    }

    /// How much of its life is left, judged by its share: lives of six days and of a year are common.
    pub fn life_left(&self, now: SystemTime) -> LifeLeft {
        let Ok(left) = self.not_after.duration_since(now) else {
            return LifeLeft::Expired;
        };
        let share = self.share_left(now);
        let is_below = |percent: u32| share < f64::from(percent) / 100.0 && left < EARLIEST;
        if is_below(VERY_SOON) {
            LifeLeft::VeryLittle
        } else if is_below(SOON) {
            LifeLeft::Little
        } else {
            LifeLeft::Enough
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_the_life_decides_and_not_the_days() {
        const DAY: u64 = 24 * 60 * 60;
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 * DAY);
        for (life, left, expected) in [
            (90.0, 89.0, LifeLeft::Enough),
            (90.0, 18.1, LifeLeft::Enough),
            (90.0, 17.9, LifeLeft::Little),
            (90.0, 4.4, LifeLeft::VeryLittle),
            (90.0, -0.1, LifeLeft::Expired),
            (6.0, 2.0, LifeLeft::Enough),
            (6.0, 1.0, LifeLeft::Little),
            (6.0, 0.2, LifeLeft::VeryLittle),
            (3650.0, 100.0, LifeLeft::Enough),
            (3650.0, 29.0, LifeLeft::VeryLittle),
            // Its end is before its start.
            (-1.0, 1.0, LifeLeft::VeryLittle),
        ] {
            let at = |days: f64| {
                let seconds = Duration::from_secs_f64(days.abs() * DAY as f64);
                match days < 0.0 {
                    true => start - seconds,
                    false => start + seconds,
                }
            };
            let validity = ServedValidity {
                issuer: "a CA".into(),
                not_before: start,
                not_after: at(life),
                is_self_signed: false,
            };
            let now = at(life - left);
            assert_eq!(validity.life_left(now), expected, "{life} {left}");
        }
    }
}
