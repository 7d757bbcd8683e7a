//! The verdicts of a service that hold for a while.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use aws_lc_rs::{hmac, rand};

use super::question::{AuthQuestion, QuestionDigest};
use super::service::ServiceVerdict;

/// The most verdicts that are remembered.
const MAX_VERDICTS: usize = 16_384;

/// The most bytes that they occupy together.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The verdicts of one service on one worker, the oldest of which make room for others.
#[derive(Debug)]
pub struct VerdictCache {
    key: hmac::Key,
    verdicts: HashMap<QuestionDigest, RememberedVerdict>,
    /// In the order in which they came, those included that were replaced.
    order: VecDeque<(QuestionDigest, u64)>,
    bytes: usize,
    next_number: u64,
}

#[derive(Debug)]
struct RememberedVerdict {
    verdict: ServiceVerdict,
    until: Instant,
    size: usize,
    number: u64,
}

impl VerdictCache {
    /// A cache without verdicts; `None` if there is no random key, without which it can be tricked.
    pub fn new() -> Option<Self> {
        let mut key = [0; 32];
        rand::fill(&mut key).ok()?;
        Some(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            verdicts: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            next_number: 0,
        })
    }

    /// The key of a question in this cache.
    pub fn digest(&self, question: &AuthQuestion) -> QuestionDigest {
        question.digest(&self.key)
    }

    /// The verdict about this question, if it still holds.
    pub fn get(&self, digest: &QuestionDigest, now: Instant) -> Option<&ServiceVerdict> {
        let remembered = self.verdicts.get(digest)?;
        (now < remembered.until).then_some(&remembered.verdict)
    }

    /// Remembers a verdict for `lifetime`.
    pub fn put(
        &mut self,
        digest: QuestionDigest,
        verdict: ServiceVerdict,
        lifetime: Duration,
        now: Instant,
    ) {
        self.forget(&digest);
        self.drop_expired(now);
        let size = verdict.size();
        let Some(until) = now.checked_add(lifetime).filter(|_| size <= MAX_BYTES) else {
            return;
        };
        while self.order.len() >= MAX_VERDICTS || self.bytes + size > MAX_BYTES {
            if !self.drop_oldest() {
                break;
            }
        }
        let number = self.next_number;
        self.next_number += 1;
        self.bytes += size;
        self.order.push_back((digest, number));
        let remembered = RememberedVerdict {
            verdict,
            until,
            size,
            number,
        };
        self.verdicts.insert(digest, remembered);
    }

    /// Drops the oldest ones that have expired: nearly all live equally long.
    fn drop_expired(&mut self, now: Instant) {
        while let Some((digest, number)) = self.order.front() {
            let remembered = self.verdicts.get(digest);
            let remembered = remembered.filter(|it| it.number == *number);
            if remembered.is_some_and(|it| now < it.until) {
                break;
            }
            self.drop_oldest();
        }
    }

    /// Returns whether there was one.
    fn drop_oldest(&mut self) -> bool {
        let Some((digest, number)) = self.order.pop_front() else {
            return false;
        };
        // It may have been replaced meanwhile.
        if self
            .verdicts
            .get(&digest)
            .is_some_and(|it| it.number == number)
        {
            self.forget(&digest);
        }
        true
    }

    fn forget(&mut self, digest: &QuestionDigest) {
        if let Some(forgotten) = self.verdicts.remove(digest) {
            self.bytes -= forgotten.size;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

    use super::*;
    use crate::auth::question::AskedRequest;
    use crate::auth::service::ServiceRefusal;
    use crate::config::model::AuthService;

    fn question(number: usize) -> AuthQuestion {
        let service = AuthService {
            upstream: "login".into(),
            path: "/".into(),
            request_headers: vec![HeaderName::from_static("cookie")],
            response_headers: Vec::new(),
            subject_header: None,
            client_headers: Vec::new(),
            timeout: Duration::from_secs(1),
            at_once: 1,
            passes_on_error: false,
            cache: None,
        };
        let mut headers = HeaderMap::new();
        headers.insert("cookie", HeaderValue::from(number));
        let asked = AskedRequest {
            method: &Method::GET,
            uri: "/",
            secure: false,
            host: None,
            client: None,
            headers: &headers,
            request_id: None,
        };
        AuthQuestion::about(&asked, &service)
    }

    fn refusal(bytes: usize) -> ServiceVerdict {
        ServiceVerdict::Refused(ServiceRefusal {
            status: StatusCode::FORBIDDEN,
            fields: Vec::new(),
            body: Some(Bytes::from(vec![0; bytes])),
        })
    }

    #[test]
    fn verdicts_hold_for_their_time() {
        let mut cache = VerdictCache::new().unwrap();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let [one, two] = [1, 2].map(|number| cache.digest(&question(number)));
        cache.put(one, refusal(1), second, start);
        assert!(cache.get(&one, start).is_some());
        assert!(cache.get(&two, start).is_none());
        assert!(cache.get(&one, start + second).is_none());
        cache.put(one, refusal(1), second, start + second);
        assert!(cache.get(&one, start + second).is_some());
        cache.put(two, refusal(1), second, start + 2 * second);
        assert_eq!((cache.verdicts.len(), cache.order.len()), (1, 1));
        assert_eq!(cache.bytes, refusal(1).size());
    }

    #[test]
    fn number_and_size_are_bounded() {
        let (now, long) = (Instant::now(), Duration::from_secs(60));
        let mut cache = VerdictCache::new().unwrap();
        for number in 0..MAX_VERDICTS + 10 {
            let digest = cache.digest(&question(number));
            cache.put(digest, refusal(0), long, now);
        }
        assert_eq!(cache.verdicts.len(), MAX_VERDICTS);
        assert!(cache.order.len() <= MAX_VERDICTS);
        let gone = cache.digest(&question(9));
        let kept = cache.digest(&question(10));
        assert!(cache.get(&gone, now).is_none() && cache.get(&kept, now).is_some());
        let mut cache = VerdictCache::new().unwrap();
        for number in 0..100 {
            let digest = cache.digest(&question(number));
            cache.put(digest, refusal(MAX_BYTES / 10), long, now);
            assert!(cache.bytes <= MAX_BYTES);
        }
        assert_eq!(cache.verdicts.len(), 9);
        // The same one again and again leaves no trace of the earlier ones for long.
        let digest = cache.digest(&question(1));
        for _ in 0..3 * MAX_VERDICTS {
            cache.put(digest, refusal(0), Duration::ZERO, now);
        }
        assert!(cache.order.len() <= MAX_VERDICTS, "{}", cache.order.len());
    }
}
