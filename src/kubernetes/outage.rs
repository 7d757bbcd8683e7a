//! What failures of a watch come to, and what shows that they are over.
//!
//! That a watch was opened shows nothing: a proxy may open streams and pass nothing on. Events show that it works, and
//! so does a clean end, which only the API server makes, at the time that it was asked to. Bookmarks come about every
//! minute, but Kubernetes promises none, so their absence is not a failure.
//!
//! Pure: no I/O and no clock.

use std::time::Duration;

use super::KubernetesError;
use super::watch::{WatchPhase, WatchStep};
use crate::upstream::discovery::answer::retry_after;

/// The longest time from one list to the next while lists take the place of watches. It is not that of other
/// failures: lists bring news, but each is a read of all slices.
const LIST_INTERVAL: Duration = Duration::from_secs(20);

/// How the API server has responded lately.
#[derive(Debug, Default)]
pub struct WatchOutage {
    /// Failures since something has last shown that watching works, or that the API server is back.
    failures: u32,
    /// Failures of watches since one has last brought something. A list does not end them.
    watch_failures: u32,
    /// Failures since the last response without one.
    unanswered: u32,
    /// Whether watches bring nothing: until one does, lists alone show what has changed.
    is_mute: bool,
}

/// What has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchFailure {
    /// A list, or any request: the API server was not reached.
    Request,
    /// A watch was not opened, although the API server, or something before it, was reached.
    Unopened,
    /// An open watch.
    Cut,
    /// An open watch, of which nothing has come for too long.
    Silent,
}

impl WatchFailure {
    /// What this error means in this phase.
    pub fn of(error: &KubernetesError, phase: WatchPhase) -> Self {
        match phase {
            WatchPhase::Open if error.is_silence() => Self::Silent,
            WatchPhase::Open => Self::Cut,
            WatchPhase::Opening if error.was_connected() => Self::Unopened,
            WatchPhase::Opening | WatchPhase::Listing => Self::Request,
        }
    }
}

/// What a step without a failure shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepMeaning {
    /// Nothing.
    Nothing,
    /// What the endpoints are now, but not that the watch that follows will work.
    Fresh,
    /// Watching works.
    Works,
    /// Watching works again.
    WorksAgain,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCourse {
    /// The watch is resumed, as often happens: API servers restart, and what is between may end long connections.
    Interrupted,
    /// Something is wrong.
    Failed,
    /// Something is wrong, and what has changed is not known: the slices are to be listed.
    Mute,
}

impl WatchOutage {
    /// Notes a step without a failure.
    pub fn stepped(&mut self, step: WatchStep) -> StepMeaning {
        self.unanswered = 0;
        match step {
            WatchStep::Opened | WatchStep::Expired => return StepMeaning::Nothing,
            WatchStep::Listed if self.is_mute => return StepMeaning::Fresh,
            WatchStep::Listed => {}
            WatchStep::Changed | WatchStep::Unchanged | WatchStep::Ended => {
                self.is_mute = false;
                self.watch_failures = 0;
            }
        }
        match std::mem::take(&mut self.failures) {
            0 => StepMeaning::Works,
            _ => StepMeaning::WorksAgain,
        }
    }

    /// Notes a failure. Two watches in a row that bring nothing are enough for lists to take their place, whether they
    /// were opened or not: what refuses watches, or holds their responses back, may still let lists through.
    pub fn failed(&mut self, failure: WatchFailure) -> FailureCourse {
        self.failures = self.failures.saturating_add(1);
        self.unanswered = self.unanswered.saturating_add(1);
        if failure != WatchFailure::Request {
            self.watch_failures = self.watch_failures.saturating_add(1);
        }
        self.is_mute |= failure == WatchFailure::Silent || self.watch_failures > 1;
        match failure {
            _ if self.is_mute => FailureCourse::Mute,
            WatchFailure::Cut => FailureCourse::Interrupted,
            _ => FailureCourse::Failed,
        }
    }

    /// The pause before the next request, after a step of this length has failed.
    pub fn pause(&self, step: Duration) -> Duration {
        let unanswered = retry_after(self.unanswered);
        if !self.is_mute {
            return unanswered;
        }
        // A watch that was open, or was being opened, for long has been pause enough.
        let list = retry_after(self.failures).min(LIST_INTERVAL);
        unanswered.max(list.saturating_sub(step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::watch::HEAD_TIMEOUT;

    use FailureCourse::{Failed, Interrupted, Mute};
    use StepMeaning::{Fresh, Nothing, Works, WorksAgain};
    use WatchFailure::{Cut, Request, Silent, Unopened};
    use WatchStep::{Changed, Ended, Expired, Listed, Opened, Unchanged};

    const AT_ONCE: Duration = Duration::ZERO;

    fn seconds(pause: Duration) -> u64 {
        pause.as_secs()
    }

    #[test]
    fn an_interrupted_watch_is_resumed_and_an_event_shows_that_it_works() {
        for sign in [Changed, Unchanged, Ended] {
            let mut outage = WatchOutage::default();
            assert_eq!(outage.stepped(Listed), Works);
            assert_eq!(outage.stepped(Opened), Nothing);
            assert_eq!(outage.failed(Cut), Interrupted);
            // The API server restarts: a list would not be possible either.
            assert_eq!(outage.failed(Request), Failed);
            assert_eq!(outage.failed(Request), Failed);
            assert_eq!(seconds(outage.pause(AT_ONCE)), 4);
            assert_eq!(outage.stepped(Opened), Nothing);
            assert_eq!(outage.stepped(sign), WorksAgain);
            assert_eq!(outage.stepped(sign), Works);
            assert_eq!(outage.failed(Cut), Interrupted);
            assert_eq!(seconds(outage.pause(AT_ONCE)), 1);
        }
    }

    #[test]
    fn watches_that_are_opened_and_bring_nothing_are_a_failure() {
        for failure in [Cut, Silent] {
            let mut outage = WatchOutage::default();
            outage.stepped(Listed);
            outage.stepped(Opened);
            let first = outage.failed(failure);
            assert_eq!(first, if failure == Silent { Mute } else { Interrupted });
            for _ in 0..3 {
                outage.stepped(Opened);
                assert_eq!(outage.failed(failure), Mute);
                // A list shows the endpoints; that it is over shows only an event.
                assert_eq!(outage.stepped(Listed), Fresh);
            }
            assert_eq!(outage.stepped(Expired), Nothing);
            assert_eq!(outage.stepped(Unchanged), WorksAgain);
            assert_eq!(outage.stepped(Listed), Works);
        }
    }

    #[test]
    fn watches_that_cannot_be_opened_twice_in_a_row_are_a_failure_of_watches() {
        let mut outage = WatchOutage::default();
        outage.stepped(Listed);
        assert_eq!(outage.failed(Unopened), Failed);
        assert_eq!(outage.failed(Request), Failed, "it was not reached at all");
        assert_eq!(outage.failed(Unopened), Mute);
        for _ in 0..3 {
            assert_eq!(outage.stepped(Listed), Fresh);
            assert_eq!(outage.failed(Unopened), Mute);
        }
        assert_eq!(outage.stepped(Listed), Fresh);
        assert_eq!(outage.stepped(Opened), Nothing);
        assert_eq!(outage.stepped(Ended), WorksAgain);
        assert_eq!(outage.failed(Unopened), Failed);
    }

    /// The lists of a loop in which lists work, and watches are opened or not, and then fail.
    fn pauses(failures: &[WatchFailure], step: Duration) -> Vec<u64> {
        let mut outage = WatchOutage::default();
        let mut pauses = Vec::new();
        outage.stepped(Listed);
        for failure in failures {
            if *failure != Unopened {
                outage.stepped(Opened);
            }
            let course = outage.failed(*failure);
            pauses.push(seconds(outage.pause(step)));
            if course == Mute {
                outage.stepped(Listed);
            }
        }
        pauses
    }

    #[test]
    fn lists_that_take_the_place_of_watches_are_further_and_further_apart() {
        assert_eq!(pauses(&[Cut; 8], AT_ONCE), [1, 2, 4, 8, 16, 20, 20, 20]);
        assert_eq!(
            pauses(&[Unopened; 7], AT_ONCE),
            [1, 2, 4, 8, 16, 20, 20],
            "the permission to watch is missing"
        );
        // Responses are held back, or watches are silent until their end.
        assert_eq!(pauses(&[Unopened; 7], HEAD_TIMEOUT)[2..], [1, 1, 1, 5, 5]);
        assert_eq!(pauses(&[Silent; 5], Duration::from_secs(35)), [1; 5]);
        assert_eq!(
            pauses(&[Cut; 7], Duration::from_secs(15))[4..],
            [1, 5, 5],
            "something cuts them after some seconds"
        );
    }

    #[test]
    fn watches_that_begin_with_an_error_are_not_made_good_by_lists() {
        // The error is one of the watch: it has no state to resume from, so a list precedes the next one.
        let mut outage = WatchOutage::default();
        let mut courses = Vec::new();
        for _ in 0..4 {
            outage.stepped(Listed);
            outage.stepped(Opened);
            courses.push(outage.failed(Cut));
        }
        assert_eq!(courses, [Interrupted, Mute, Mute, Mute]);
        assert_eq!(seconds(outage.pause(AT_ONCE)), 4);
    }

    #[test]
    fn a_list_after_failures_shows_that_the_api_server_is_back() {
        let mut outage = WatchOutage::default();
        assert_eq!(outage.failed(Request), Failed);
        assert_eq!(outage.stepped(Listed), WorksAgain);
    }

    #[test]
    fn a_list_that_fails_while_watches_bring_nothing_is_tried_again_like_any() {
        let mut outage = WatchOutage::default();
        outage.stepped(Listed);
        assert_eq!(outage.failed(Silent), Mute);
        for _ in 0..5 {
            assert_eq!(outage.failed(Request), Mute);
        }
        assert_eq!(seconds(outage.pause(AT_ONCE)), 30);
        assert_eq!(outage.stepped(Listed), Fresh);
    }

    #[test]
    fn what_a_list_would_meet_too_is_not_a_failure_of_watches() {
        use crate::https_client::HttpsClientError::{Connect, Exchange, Silence};
        let host: Box<str> = "api".into();
        let refused = KubernetesError::from(Connect {
            host: host.clone(),
            error: std::io::ErrorKind::ConnectionRefused.into(),
        });
        let silence = KubernetesError::from(Silence {
            host: host.clone(),
            limit: Duration::from_secs(35),
        });
        let reset = KubernetesError::from(Exchange {
            host,
            error: "connection closed".into(),
        });
        let forbidden = KubernetesError::Forbidden(String::new());
        for (error, listing, opening, open) in [
            (&refused, Request, Request, Cut),
            (&KubernetesError::FilesTimeout, Request, Request, Cut),
            (&forbidden, Request, Unopened, Cut),
            (&reset, Request, Unopened, Cut),
            (&silence, Request, Unopened, Silent),
        ] {
            let of = |phase| WatchFailure::of(error, phase);
            assert_eq!(of(WatchPhase::Listing), listing, "{error}");
            assert_eq!(of(WatchPhase::Opening), opening, "{error}");
            assert_eq!(of(WatchPhase::Open), open, "{error}");
        }
    }
}
