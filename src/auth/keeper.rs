//! Keeps the keys of one issuer up to date.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use super::fetch::KeyFetch;
use super::issuer_keys::{IssuerKeys, KeyFetchStatus};
use super::key_set::KeySet;
use crate::causes::with_causes;
use crate::config::key_set::PublishedKey;
use crate::https_client::backoff;
use crate::quota::failure_reports::{FailureReports, warn_once_a_minute};

/// The issuer is asked again after this time at the earliest and at the latest, whatever it says itself.
const REFRESH: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60 * 60));

/// The same, if it says nothing.
const USUAL_REFRESH: Duration = Duration::from_secs(5 * 60);

/// Keeps the keys of one issuer up to date.
pub(super) struct KeyKeeper<F> {
    keys: Arc<IssuerKeys>,
    fetch: F,
    reports: Arc<FailureReports>,
    /// What was fetched last. As long as it stays the same, the keys in use do, too, and with them what workers remember
    /// of tokens.
    published: Vec<PublishedKey>,
    /// Where any moment is as good as another: nodes that were started together do not ask together.
    random: fastrand::Rng,
}

impl<F: KeyFetch> KeyKeeper<F> {
    pub(super) fn new(keys: Arc<IssuerKeys>, fetch: F, reports: Arc<FailureReports>) -> Self {
        Self {
            keys,
            fetch,
            reports,
            published: Vec::new(),
            random: fastrand::Rng::new(),
        }
    }

    /// Works until it is stopped.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let rest = tokio::select! {
                rest = self.ask() => rest,
                () = stopped(&mut stop) => break,
            };
            tokio::select! {
                () = sleep(rest) => {}
                () = self.keys.demanded() => {}
                () = stopped(&mut stop) => break,
            }
        }
    }

    /// Asks the issuer. Returns how long not to ask again.
    async fn ask(&mut self) -> Duration {
        self.keys.begin();
        let before = self.keys.status();
        let auth = &*self.keys.location.auth;
        match self.fetch.fetch().await {
            Ok(fetched) => {
                let count = fetched.keys.len();
                if before.fetched.is_none() || before.failure.is_some() {
                    tracing::info!(auth, keys = count, "keys of an issuer fetched");
                }
                let status = KeyFetchStatus {
                    fetched: Some(SystemTime::now()),
                    failure: None,
                    failures: 0,
                };
                let is_new = fetched.keys != self.published;
                let keys = is_new.then(|| KeySet::published(&fetched.keys));
                self.published = fetched.keys;
                self.keys.end(keys, status);
                let rest = fetched.max_age.unwrap_or(USUAL_REFRESH);
                rest.mul_f64(1.0 - self.random.f64() / 10.0)
                    .clamp(REFRESH.0, REFRESH.1)
            }
            Err(error) => {
                let error = with_causes(&error);
                let failures = before.failures.saturating_add(1);
                let effect = match before.fetched {
                    Some(_) => "the present ones stay in use",
                    None => "no token can be verified until then",
                };
                warn_once_a_minute!(
                    self.reports,
                    &format!("{auth}: {error}"),
                    "keys of an issuer not fetched; it is asked again",
                    auth,
                    error,
                    failures,
                    effect
                );
                let status = KeyFetchStatus {
                    fetched: before.fetched,
                    failure: Some(error.into()),
                    failures,
                };
                self.keys.end(None, status);
                backoff(failures).mul_f64(1.0 - self.random.f64() / 2.0)
            }
        }
    }
}

/// Waits until there is no work any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone.
    let _ = stop.wait_for(|is_stopped| *is_stopped).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::StatusCode;
    use tokio::time::Instant;

    use super::*;
    use crate::auth::fetch::{FetchedKeys, KeyFetchError};
    use crate::auth::issuer_keys::KeyLocation;
    use crate::config::key_set::{KeyMaterial, TokenAlgorithm};
    use crate::config::model::Roots;

    /// An issuer that answers with the last of these, once each, and notes when it was asked.
    struct ScriptedIssuer {
        answers: Mutex<Vec<Option<u64>>>,
        asked: Arc<Mutex<Vec<Duration>>>,
        start: Instant,
    }

    impl KeyFetch for ScriptedIssuer {
        async fn fetch(&self) -> Result<FetchedKeys, KeyFetchError> {
            self.asked.lock().unwrap().push(self.start.elapsed());
            let answer = self.answers.lock().unwrap().pop().flatten();
            let seconds = answer.ok_or(KeyFetchError::Status(StatusCode::BAD_GATEWAY))?;
            let key = PublishedKey {
                id: None,
                algorithms: vec![TokenAlgorithm::EdDsa],
                material: KeyMaterial::Ed(vec![0; 32]),
            };
            Ok(FetchedKeys {
                keys: vec![key],
                max_age: Some(Duration::from_secs(seconds)),
            })
        }
    }

    /// When an issuer with these answers is asked within this time, and what is known then.
    async fn asked(answers: &[Option<u64>], within: u64) -> (Vec<f64>, Arc<IssuerKeys>) {
        let keys = Arc::new(IssuerKeys::new(KeyLocation {
            auth: "a".into(),
            url: "https://id.invalid/".into(),
            roots: Roots::Platform,
        }));
        let asked = Arc::default();
        let issuer = ScriptedIssuer {
            answers: Mutex::new(answers.iter().rev().copied().collect()),
            asked: Arc::clone(&asked),
            start: Instant::now(),
        };
        let keeper = KeyKeeper::new(Arc::clone(&keys), issuer, Arc::default());
        let (_stop, stopped) = watch::channel(false);
        let running = tokio::time::timeout(Duration::from_secs(within), keeper.run(stopped));
        assert!(running.await.is_err(), "it does not stop by itself");
        let times = asked
            .lock()
            .unwrap()
            .iter()
            .map(Duration::as_secs_f64)
            .collect();
        (times, keys)
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_is_asked_again_within_bounds() {
        for (max_age, least, most) in [
            (0, 60.0, 60.01),
            (1000, 900.0, 1000.01),
            (1 << 40, 3600.0, 3600.01),
        ] {
            let (times, keys) = asked(&[Some(max_age); 9], 3700).await;
            let between = times[1] - times[0];
            assert!((least..most).contains(&between), "{max_age}: {times:?}");
            assert_eq!(keys.current().unwrap().count(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_followed_by_longer_pauses_and_keys_stay() {
        let (times, keys) = asked(&[Some(60)], 60 * 60).await;
        let pauses: Vec<f64> = times
            .windows(2)
            .skip(1)
            .map(|pair| pair[1] - pair[0])
            .collect();
        for (pause, longest) in pauses
            .iter()
            .zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0])
        {
            assert!(
                (longest / 2.0 - 0.01..longest + 0.01).contains(pause),
                "{pauses:?}"
            );
        }
        assert!(pauses.len() < 200, "{}", pauses.len());
        assert_eq!(keys.current().unwrap().count(), 1);
        let status = keys.status();
        assert_eq!(status.failures as usize, times.len() - 1);
        assert!(status.failure.is_some() && status.fetched.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn without_any_answer_there_are_no_keys() {
        let (times, keys) = asked(&[], 10).await;
        assert!(times.len() > 3);
        assert!(keys.current().is_none() && keys.status().fetched.is_none());
    }
}
