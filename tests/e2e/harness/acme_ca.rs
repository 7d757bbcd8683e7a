//! A certificate authority that speaks ACME (RFC 8555) over TLS, for tests: it validates names by connecting, and
//! fails on demand. Signatures of requests are not verified; nonces are.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::acme_settings::{CaHistory, CaSettings, CannedFailure, RequestKey};
use super::acme_validation::{Validation, digest, validate};
use super::certificates::Authority;
use super::until;

#[derive(Default)]
struct CaState {
    settings: CaSettings,
    history: CaHistory,
    nonces: HashSet<String>,
    counter: usize,
    /// Thumbprints by account URL.
    accounts: HashMap<String, String>,
    orders: HashMap<String, AcmeOrder>,
    authorizations: HashMap<String, AcmeAuthorization>,
}

struct AcmeOrder {
    names: Vec<String>,
    authorizations: Vec<String>,
    replaces: Value,
    chain: Option<String>,
}

struct AcmeAuthorization {
    name: String,
    is_wildcard: bool,
    token: String,
    thumbprint: String,
    status: &'static str,
    /// The challenge that was tried, and its error.
    tried: Option<(String, Option<String>)>,
}

/// The authority.
#[derive(Clone)]
pub(crate) struct AcmeCa {
    pub(crate) base: String,
    pub(crate) root_pem: Arc<str>,
    state: Arc<Mutex<CaState>>,
    issuer: Arc<Issuer<'static, KeyPair>>,
    _folder: Arc<TempDir>,
}

struct Answer(StatusCode, Value, Vec<(&'static str, String)>);

impl AcmeCa {
    /// Starts it on a port of loopback.
    pub(crate) async fn start(settings: CaSettings) -> Self {
        let (own, folder) = (Authority::new(), TempDir::new().unwrap());
        let acceptor = TlsAcceptor::from(own.server(folder.path(), &["localhost"], false));
        let root = folder.path().join("root.pem");
        own.write(&root);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "Test Intermediate");
        let ca = Self {
            base: format!(
                "https://localhost:{}",
                listener.local_addr().unwrap().port()
            ),
            root_pem: std::fs::read_to_string(root).unwrap().into(),
            state: Arc::new(Mutex::new(CaState {
                settings,
                ..CaState::default()
            })),
            issuer: Arc::new(Issuer::new(params, KeyPair::generate().unwrap())),
            _folder: Arc::new(folder),
        };
        let running = ca.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, ca) = (acceptor.clone(), running.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else {
                        return;
                    };
                    let service = service_fn(move |request| {
                        let ca = ca.clone();
                        async move { Ok::<_, Infallible>(ca.serve(request).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        ca
    }

    pub(crate) fn directory(&self) -> String {
        format!("{}/dir", self.base)
    }

    /// The certificate that the authority's own is issued by.
    pub(crate) fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.root_pem.as_bytes()).unwrap()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut CaSettings)) {
        change(&mut self.state().settings);
    }

    pub(crate) fn history(&self) -> CaHistory {
        self.state().history.clone()
    }

    /// Whether a name is being validated.
    pub(crate) fn is_validating(&self) -> bool {
        let state = self.state();
        let mut all = state.authorizations.values();
        all.any(|found| found.status == "pending" && found.tried.is_some())
    }

    /// Forgets all accounts and orders, like an authority for tests that was restarted.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        state.accounts.clear();
        state.orders.clear();
        state.authorizations.clear();
    }

    fn state(&self) -> MutexGuard<'_, CaState> {
        self.state.lock().unwrap()
    }

    async fn serve(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let answer = match (&parts.method, path.as_str()) {
            (&Method::GET, "/dir") => Ok(Answer(StatusCode::OK, self.listing(), vec![])),
            (&Method::HEAD, "/nonce") => Ok(Answer(StatusCode::OK, Value::Null, vec![])),
            (&Method::GET, path) if path.starts_with("/ari/") => self.renewal_info(),
            (&Method::POST, path) => self.post(path, &body),
            _ => Err(problem(404, "malformed", "no such resource")),
        };
        let Answer(status, value, headers) = answer.unwrap_or_else(|error| error);
        let text = match value {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        let mut response = Response::builder()
            .status(status)
            .header("replay-nonce", self.nonce());
        for (name, value) in headers {
            response = response.header(name, value);
        }
        response.body(Full::new(text.into())).unwrap()
    }

    fn listing(&self) -> Value {
        let state = self.state();
        let url = |path: &str| json!(format!("{}/{path}", self.base));
        let mut listing = json!({
            "newNonce": url("nonce"), "newAccount": url("account"), "newOrder": url("order"),
            "meta": {"profiles": {}},
        });
        if state.settings.window.is_some() {
            listing["renewalInfo"] = url("ari");
        }
        for profile in &state.settings.profiles {
            listing["meta"]["profiles"][profile] = json!("a profile");
        }
        listing
    }

    fn nonce(&self) -> String {
        let nonce = format!("nonce{:016x}", fastrand::u64(..));
        self.state().nonces.insert(nonce.clone());
        nonce
    }

    fn renewal_info(&self) -> Result<Answer, Answer> {
        let mut state = self.state();
        state.history.window_polls += 1;
        let (start, end) = state
            .settings
            .window
            .ok_or_else(|| problem(404, "malformed", "no ARI"))?;
        let at = |seconds: i64| {
            let shift = Duration::from_secs(seconds.unsigned_abs());
            let now = SystemTime::now();
            let at = if seconds < 0 {
                now - shift
            } else {
                now + shift
            };
            humantime::format_rfc3339_seconds(at).to_string()
        };
        let window = json!({"suggestedWindow": {"start": at(start), "end": at(end)}});
        Ok(Answer(
            StatusCode::OK,
            window,
            vec![("retry-after", "21600".to_owned())],
        ))
    }

    fn post(&self, path: &str, body: &[u8]) -> Result<Answer, Answer> {
        let malformed = || problem(400, "malformed", "not a JWS");
        let jws: Value = serde_json::from_slice(body).map_err(|_| malformed())?;
        let part = |name: &str| {
            BASE64
                .decode(jws[name].as_str().unwrap_or_default())
                .unwrap_or_default()
        };
        let head: Value = serde_json::from_slice(&part("protected")).map_err(|_| malformed())?;
        let payload: Value = serde_json::from_slice(&part("payload")).unwrap_or_default();
        self.check_nonce(&head)?;
        if head["url"] != json!(format!("{}{path}", self.base)) {
            return Err(problem(
                400,
                "unauthorized",
                "the URL is not the one of the request",
            ));
        }
        if path == "/account" {
            return self.new_account(&head, &payload);
        }
        let account = head["kid"].as_str().unwrap_or_default();
        let thumbprint = self.state().accounts.get(account).cloned();
        let thumbprint =
            thumbprint.ok_or_else(|| problem(400, "accountDoesNotExist", "unknown account"))?;
        let (kind, id) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        match kind {
            "order" if id.is_empty() => self.new_order(&payload, &thumbprint),
            "order" => self.order(id),
            "authz" => self.authorization(id),
            "chall" => self.challenge(id),
            "finalize" => self.finalize(id, &payload),
            "accounts" => {
                let contact = payload["contact"].clone();
                self.state().history.contacts.push(contact);
                Ok(Answer(StatusCode::OK, json!({"status": "valid"}), vec![]))
            }
            "cert" => {
                let state = self.state();
                let chain = state.orders.get(id).and_then(|order| order.chain.clone());
                let chain = chain.ok_or_else(|| problem(404, "malformed", "no certificate"))?;
                Ok(Answer(StatusCode::OK, json!(chain), vec![]))
            }
            _ => Err(problem(404, "malformed", "no such resource")),
        }
    }

    fn check_nonce(&self, head: &Value) -> Result<(), Answer> {
        let mut state = self.state();
        state.counter += 1;
        let is_unlucky = state
            .settings
            .rejects_every
            .is_some_and(|every| state.counter.is_multiple_of(every));
        let is_known = state
            .nonces
            .remove(head["nonce"].as_str().unwrap_or_default());
        if is_known && !is_unlucky {
            return Ok(());
        }
        state.history.rejected_nonces += 1;
        Err(problem(400, "badNonce", "unknown nonce"))
    }

    fn new_account(&self, head: &Value, payload: &Value) -> Result<Answer, Answer> {
        let mut state = self.state();
        if payload["termsOfServiceAgreed"] != json!(true) {
            return Err(problem(
                403,
                "userActionRequired",
                "the terms are not agreed to",
            ));
        }
        if let Some(expected) = state.settings.external_account {
            let bound = payload["externalAccountBinding"]["protected"]
                .as_str()
                .unwrap_or_default();
            let bound: Value =
                serde_json::from_slice(&BASE64.decode(bound).unwrap()).unwrap_or_default();
            // It is good for one account.
            if bound["kid"] != json!(expected) || state.history.accounts > 0 {
                return Err(problem(
                    401,
                    "externalAccountRequired",
                    "no binding to an account",
                ));
            }
        }
        let key = &head["jwk"];
        let canonical = format!(
            r#"{{"crv":{},"kty":{},"x":{},"y":{}}}"#,
            key["crv"], key["kty"], key["x"], key["y"]
        );
        state.history.accounts += 1;
        let url = format!("{}/accounts/{}", self.base, fastrand::u32(..));
        state
            .accounts
            .insert(url.clone(), BASE64.encode(digest(canonical.as_bytes())));
        Ok(Answer(
            StatusCode::CREATED,
            json!({"status": "valid"}),
            vec![("location", url)],
        ))
    }

    fn new_order(&self, payload: &Value, thumbprint: &str) -> Result<Answer, Answer> {
        let mut state = self.state();
        state.history.orders += 1;
        state.history.last_order = payload.clone();
        if let Some(failure) = state.settings.failures.pop_front() {
            return Err(failure.answer());
        }
        if let Some(profile) = payload["profile"].as_str()
            && !state.settings.profiles.contains(&profile)
        {
            return Err(problem(400, "invalidProfile", "no such profile"));
        }
        let id = format!("{:08x}", fastrand::u32(..));
        let identifiers = payload["identifiers"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let names: Vec<String> = identifiers
            .iter()
            .filter_map(|name| name["value"].as_str())
            .map(str::to_owned)
            .collect();
        let mut authorizations = Vec::new();
        for name in &names {
            let authorization = format!("{:08x}", fastrand::u32(..));
            authorizations.push(authorization.clone());
            let base = name.strip_prefix("*.");
            let new = AcmeAuthorization {
                name: base.unwrap_or(name).to_owned(),
                is_wildcard: base.is_some(),
                token: format!("token{:016x}", fastrand::u64(..)),
                thumbprint: thumbprint.to_owned(),
                status: "pending",
                tried: None,
            };
            state.authorizations.insert(authorization, new);
        }
        let order = AcmeOrder {
            names,
            authorizations,
            replaces: payload["replaces"].clone(),
            chain: None,
        };
        state.orders.insert(id.clone(), order);
        drop(state);
        let Answer(_, value, _) = self.order(&id)?;
        let location = format!("{}/order/{id}", self.base);
        Ok(Answer(
            StatusCode::CREATED,
            value,
            vec![("location", location)],
        ))
    }

    fn order(&self, id: &str) -> Result<Answer, Answer> {
        let state = self.state();
        let order = state
            .orders
            .get(id)
            .ok_or_else(|| problem(404, "malformed", "no such order"))?;
        let statuses = order
            .authorizations
            .iter()
            .map(|id| state.authorizations[id].status);
        let statuses: Vec<&str> = statuses.collect();
        let status = match &statuses {
            _ if order.chain.is_some() => "valid",
            all if all.contains(&"invalid") => "invalid",
            all if all.iter().all(|status| *status == "valid") => "ready",
            _ => "pending",
        };
        let url = |kind: &str, id: &str| format!("{}/{kind}/{id}", self.base);
        let authorizations: Vec<String> = order
            .authorizations
            .iter()
            .map(|id| url("authz", id))
            .collect();
        let mut value = json!({
            "status": status, "authorizations": authorizations, "finalize": url("finalize", id), "identifiers": [],
        });
        if order.chain.is_some() {
            value["certificate"] = json!(url("cert", id));
        }
        if !order.replaces.is_null() {
            value["replaces"] = order.replaces.clone();
        }
        Ok(Answer(StatusCode::OK, value, vec![]))
    }

    fn authorization(&self, id: &str) -> Result<Answer, Answer> {
        let state = self.state();
        let found = state
            .authorizations
            .get(id)
            .ok_or_else(|| problem(404, "malformed", "no such authorization"))?;
        let offered = match found.is_wildcard {
            true => vec!["dns-01"],
            false => vec!["http-01", "tls-alpn-01", "dns-01"],
        };
        let allowed = &state.settings.challenges;
        let offered = offered
            .into_iter()
            .filter(|kind| allowed.is_empty() || allowed.contains(kind));
        let challenges: Vec<Value> = offered
            .map(|kind| {
                let mut challenge = json!({
                    "type": kind, "url": format!("{}/chall/{id}/{kind}", self.base),
                    "token": found.token, "status": "pending",
                });
                if let Some((_, error)) = found.tried.as_ref().filter(|(tried, _)| tried == kind) {
                    challenge["status"] = json!(if found.status == "pending" { "processing" } else { found.status });
                    if let Some(error) = error {
                        challenge["error"] = json!({"type": "urn:ietf:params:acme:error:connection", "detail": error});
                    }
                }
                challenge
            })
            .collect();
        let value = json!({
            "identifier": {"type": "dns", "value": found.name}, "status": found.status,
            "wildcard": found.is_wildcard, "challenges": challenges,
        });
        Ok(Answer(StatusCode::OK, value, vec![]))
    }

    /// The challenge is to be validated: it is, by connecting.
    fn challenge(&self, path: &str) -> Result<Answer, Answer> {
        let unknown = || problem(404, "malformed", "no such challenge");
        let (id, kind) = path.split_once('/').ok_or_else(unknown)?;
        let mut state = self.state();
        let found = state.authorizations.get_mut(id).ok_or_else(unknown)?;
        let token = found.token.clone();
        if found.tried.is_none() {
            found.tried = Some((kind.to_owned(), None));
            let (ca, id, kind) = (self.clone(), id.to_owned(), kind.to_owned());
            tokio::spawn(async move { ca.validate(&id, &kind).await });
        }
        let url = format!("{}/chall/{path}", self.base);
        let value = json!({"type": kind, "url": url, "token": token, "status": "processing"});
        Ok(Answer(StatusCode::OK, value, vec![]))
    }

    async fn validate(&self, id: &str, kind: &str) {
        until("validations to go on", || {
            !self.state().settings.holds_validations
        })
        .await;
        let validation = {
            let state = self.state();
            let Some(found) = state.authorizations.get(id) else {
                return;
            };
            Validation {
                kind: kind.to_owned(),
                name: found.name.clone(),
                token: found.token.clone(),
                answer: format!("{}.{}", found.token, found.thumbprint),
                http_port: state.settings.http_port,
                tls_port: state.settings.tls_port,
                records: state.settings.records.clone(),
            }
        };
        let result = validate(&validation).await;
        let mut state = self.state();
        state
            .history
            .validated
            .push(format!("{} by {kind}: {result:?}", validation.name));
        let Some(found) = state.authorizations.get_mut(id) else {
            return;
        };
        found.status = if result.is_ok() { "valid" } else { "invalid" };
        found.tried = Some((kind.to_owned(), result.err()));
    }

    fn finalize(&self, id: &str, payload: &Value) -> Result<Answer, Answer> {
        let request = BASE64
            .decode(payload["csr"].as_str().unwrap_or_default())
            .unwrap_or_default();
        let key = RequestKey::of(&request).ok_or_else(|| problem(400, "badCSR", "not a CSR"))?;
        let mut state = self.state();
        let lifetime = state
            .settings
            .lifetime
            .unwrap_or(Duration::from_secs(90 * 24 * 60 * 60));
        let order = state
            .orders
            .get_mut(id)
            .ok_or_else(|| problem(404, "malformed", "no such order"))?;
        let mut params = CertificateParams::new(order.names.clone()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.use_authority_key_identifier_extension = true;
        params.not_before = SystemTime::now().into();
        params.not_after = (SystemTime::now() + lifetime).into();
        let certificate = params.signed_by(&key, &*self.issuer).unwrap();
        order.chain = Some(certificate.pem());
        state.history.issued += 1;
        drop(state);
        self.order(id)
    }
}

impl CannedFailure {
    fn answer(&self) -> Answer {
        let Answer(_, value, mut headers) = match self.problem {
            Some(kind) => problem(self.status, kind, "on purpose"),
            None => Answer(StatusCode::OK, json!("<html>no</html>"), vec![]),
        };
        headers.extend(
            self.retry_after
                .map(|seconds| ("retry-after", seconds.to_string())),
        );
        Answer(StatusCode::from_u16(self.status).unwrap(), value, headers)
    }
}

fn problem(status: u16, kind: &str, detail: &str) -> Answer {
    let value = json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail});
    let headers = vec![("content-type", "application/problem+json".to_owned())];
    Answer(StatusCode::from_u16(status).unwrap(), value, headers)
}
