//! What failures of a watch come to, and what shows that they are over.
//!
//! That a watch was opened shows nothing: a proxy may open streams and pass nothing on. Events show that it works, and
//! so does a clean end, which only the API server makes, at the time that it was asked to. Bookmarks come about every
//! minute, but Kubernetes promises none, so their absence is not a failure.
//!
//! Pure: no I/O and no clock.

use super::watch::WatchStep;

/// How the API server has responded lately.
#[derive(Debug, Default)]
pub struct WatchOutage {
    /// Failures since something has last shown that watching works.
    failures: u32,
    /// Failures since the last response without one.
    unanswered: u32,
    /// Whether watches bring nothing: until one does, lists alone show what has changed.
    is_mute: bool,
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
            WatchStep::Changed | WatchStep::Unchanged | WatchStep::Ended => self.is_mute = false,
        }
        match std::mem::take(&mut self.failures) {
            0 => StepMeaning::Works,
            _ => StepMeaning::WorksAgain,
        }
    }

    /// Notes a failure: of an open watch or not, and whether it is that nothing has come for too long.
    pub fn failed(&mut self, was_open: bool, is_silence: bool) -> FailureCourse {
        self.failures = self.failures.saturating_add(1);
        self.unanswered = self.unanswered.saturating_add(1);
        if is_silence || (was_open && self.failures > 1) {
            self.is_mute = true;
            FailureCourse::Mute
        } else if was_open {
            FailureCourse::Interrupted
        } else {
            FailureCourse::Failed
        }
    }

    /// Failures in a row, as far as they delay the next request.
    pub fn unanswered(&self) -> u32 {
        self.unanswered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use FailureCourse::{Failed, Interrupted, Mute};
    use StepMeaning::{Fresh, Nothing, Works, WorksAgain};
    use WatchStep::{Changed, Ended, Expired, Listed, Opened, Unchanged};

    #[test]
    fn an_interrupted_watch_is_resumed_and_an_event_shows_that_it_works() {
        for sign in [Changed, Unchanged, Ended] {
            let mut outage = WatchOutage::default();
            assert_eq!(outage.stepped(Listed), Works);
            assert_eq!(outage.stepped(Opened), Nothing);
            assert_eq!(outage.failed(true, false), Interrupted);
            assert_eq!(outage.failed(false, false), Failed);
            assert_eq!(outage.failed(false, false), Failed);
            assert_eq!(outage.unanswered(), 3);
            assert_eq!(outage.stepped(Opened), Nothing);
            assert_eq!(outage.unanswered(), 0);
            assert_eq!(outage.stepped(sign), WorksAgain);
            assert_eq!(outage.stepped(sign), Works);
            assert_eq!(outage.failed(true, false), Interrupted);
        }
    }

    #[test]
    fn watches_that_are_opened_and_bring_nothing_are_a_failure() {
        for is_silence in [true, false] {
            let mut outage = WatchOutage::default();
            outage.stepped(Listed);
            outage.stepped(Opened);
            let first = outage.failed(true, is_silence);
            assert_eq!(first, if is_silence { Mute } else { Interrupted });
            for _ in 0..3 {
                outage.stepped(Opened);
                assert_eq!(outage.failed(true, is_silence), Mute);
                // A list shows the endpoints; that it is over shows only an event.
                assert_eq!(outage.stepped(Listed), Fresh);
            }
            assert_eq!(outage.stepped(Expired), Nothing);
            assert_eq!(outage.stepped(Unchanged), WorksAgain);
            assert_eq!(outage.stepped(Listed), Works);
        }
    }

    #[test]
    fn a_list_after_failures_shows_that_the_api_server_is_back() {
        let mut outage = WatchOutage::default();
        assert_eq!(outage.failed(false, false), Failed);
        assert_eq!(outage.stepped(Listed), WorksAgain);
    }
}
