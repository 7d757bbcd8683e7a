//! Which members a request goes to, and when.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{sleep, timeout};

use super::{EtcdClient, Repetition};
use crate::store::etcd::error::EtcdError;

/// How long a member may be silent, before the next one is asked as well. A start waits for three seconds: all members
/// that may be away at once, three of seven, have to be passed within that.
const PATIENCE: Duration = Duration::from_millis(500);

/// How much later than another one the member that was asked first may respond, and still be asked first, once. When
/// the whole cluster was slow, all respond at about the same time; a member that is slow by itself is overtaken in the
/// next request, too.
const LEAD: Duration = Duration::from_millis(200);

impl EtcdClient {
    /// The response to a request, from the first member that has one.
    pub(super) async fn ask(
        &self,
        path: &'static str,
        body: Vec<u8>,
        repetition: Repetition,
    ) -> Result<Bytes, EtcdError> {
        let body = Bytes::from(body);
        match repetition {
            Repetition::Harmless => self.ask_soon(path, &body).await,
            Repetition::Harmful => self.ask_in_turn(path, &body).await,
        }
    }

    /// One member after the other, as long as none can have carried it out.
    async fn ask_in_turn(&self, path: &'static str, body: &Bytes) -> Result<Bytes, EtcdError> {
        let mut failure = None;
        for _ in &self.settings.members {
            let member = self.current.load(Ordering::Relaxed);
            match self.ask_member(member, path, body).await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_of_member() => {
                    self.leave(member);
                    if error.may_be_done() {
                        return Err(error);
                    }
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or(EtcdError::Ended))
    }

    /// One more member at a time, while those before are silent. One that drops packets is noticed only after
    /// seconds, which those who wait do not have.
    async fn ask_soon(&self, path: &'static str, body: &Bytes) -> Result<Bytes, EtcdError> {
        let count = self.settings.members.len();
        let first = self.current.load(Ordering::Relaxed);
        // As it is now: requests that wait at the same time are slow for the same reason.
        let was_overtaken = self.was_overtaken.load(Ordering::Relaxed);
        let mut members = (0..count).map(|place| (first + place) % count);
        let mut asked = FuturesUnordered::new();
        let mut failure = None;
        let mut has_failed = false;
        loop {
            if let Some(member) = members.next() {
                asked.push(async move { (member, self.ask_member(member, path, body).await) });
            }
            let waits_for_last = members.len() == 0;
            let (member, result) = tokio::select! {
                response = asked.next() => match response {
                    Some(response) => response,
                    None => return Err(failure.unwrap_or(EtcdError::Ended)),
                },
                () = sleep(PATIENCE), if !waits_for_last => continue,
            };
            match result {
                Ok(response) => {
                    let is_overtaken = member != first && !has_failed;
                    if is_overtaken && !was_overtaken && responds_soon(first, &mut asked).await {
                        self.was_overtaken.store(true, Ordering::Relaxed);
                    } else {
                        self.prefer(member);
                    }
                    return Ok(response);
                }
                Err(error) if error.is_of_member() => {
                    self.leave(member);
                    has_failed |= member == first;
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks this member first from now on.
    fn prefer(&self, member: usize) {
        self.current.store(member, Ordering::Relaxed);
        self.was_overtaken.store(false, Ordering::Relaxed);
    }
}

/// Whether this member responds soon after another one.
async fn responds_soon<F>(first: usize, asked: &mut FuturesUnordered<F>) -> bool
where
    F: Future<Output = (usize, Result<Bytes, EtcdError>)>,
{
    let responding = async {
        while let Some((member, result)) = asked.next().await {
            if member == first {
                return result.is_ok();
            }
        }
        false
    };
    timeout(LEAD, responding).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;

    use super::*;
    use crate::store::etcd::testing;
    use crate::upstream::connect::Connector;

    /// The time that a start has.
    const START: Duration = Duration::from_secs(3);

    /// A client of these members, which asks the first one first, and those that say nothing.
    fn client(members: &[&TcpListener]) -> EtcdClient {
        let settings = testing::settings(members);
        let client = EtcdClient::new(&settings, Connector::default(), Arc::default());
        client.prefer(0);
        client
    }

    #[tokio::test]
    async fn members_that_are_silent_do_not_keep_a_start_waiting() {
        let mut members = Vec::new();
        for _ in 0..3 {
            members.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let client = client(&members.iter().collect::<Vec<_>>());
        let last = members.pop().unwrap();
        let answering = async {
            loop {
                testing::respond(&last, |_| true).await;
            }
        };
        let asking = async {
            let page = timeout(START, client.get("/t/a")).await;
            assert_eq!(page.expect("in time").unwrap().revision, 7);
            // What may not be done twice goes to the one that has responded, too.
            assert!(client.has_left(0) && !client.has_left(2));
        };
        tokio::select! {
            () = answering => unreachable!(),
            () = asking => {}
        }
    }

    #[tokio::test]
    async fn a_cluster_that_was_slow_does_not_change_who_is_asked_first() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(&[&first, &second]);
        let answering = async {
            testing::respond(&second, |_| true).await;
            testing::respond(&first, |_| true).await;
        };
        let (page, ()) = tokio::join!(client.get("/t/a"), answering);
        assert_eq!(page.unwrap().revision, 7);
        assert!(!client.has_left(0));
    }

    #[tokio::test]
    async fn a_member_that_is_overtaken_twice_in_a_row_is_not_asked_first_any_more() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(&[&first, &second]);
        let all = [&second, &first];
        // What responds to each request, one after the other, and whether the first one is left by that.
        for (responding, has_left) in [
            (&all[..], false),
            (&all[1..], false),
            (&all[..], false),
            (&all[..], true),
        ] {
            let answering = async {
                for member in responding {
                    testing::respond(member, |_| true).await;
                }
            };
            let (page, ()) = tokio::join!(client.get("/t/a"), answering);
            assert_eq!(page.unwrap().revision, 7);
            assert_eq!(client.has_left(0), has_left);
        }
    }

    #[tokio::test]
    async fn without_any_member_the_failure_is_that_of_one() {
        let member = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(&[&member, &member]);
        drop(member);
        let error = client.get("/t/a").await.unwrap_err();
        assert!(matches!(error, EtcdError::Unreached(_)), "{error}");
    }
}
