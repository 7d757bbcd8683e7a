//! One order: from the names to a certificate.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeStatus, Error as ProtocolError,
    Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::account::{AuthoritySession, forget_account, open_session};
use super::authority::Authority;
use super::chain::{IssuedCertificate, stored_form};
use super::challenge::{OpenChallenge, protocol_type};
use super::errors::AcmeError;
use super::key::{key_type_name, new_key, public_key, request};
use super::problem::problem_text;
use super::renewal::FailureKind;
use crate::config::model::{AcmeConfig, ChallengeKind, HostPattern};
use crate::store::{ItemKind, ItemStore};

/// How often an order is asked for, and for how long: validation takes seconds, and a minute if it is slow.
const POLLS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.3)
    .timeout(Duration::from_secs(180));

/// One attempt to get a certificate.
pub(super) struct OrderPlan<'a, S> {
    /// The authority.
    pub(super) authority: &'a Authority<S>,
    /// The names.
    pub(super) names: &'a [HostPattern],
    /// The name of its items in the store.
    pub(super) item: &'a str,
    /// The certificate that it replaces.
    pub(super) replaces: Option<CertificateIdentifier<'static>>,
    /// The public key of the certificate that is served, if one was issued.
    pub(super) served_key: Option<Arc<[u8]>>,
    /// The attempts before this one that have failed: each uses the next challenge.
    pub(super) attempt: usize,
    /// Whether nothing is stored but the answers to challenges.
    pub(super) is_trial: bool,
}

/// A certificate that an order has got.
pub(super) struct ObtainedCertificate {
    /// As it is stored.
    pub(super) form: Zeroizing<Vec<u8>>,
    /// What is in it.
    pub(super) issued: IssuedCertificate,
    /// How the last of the names was proved; `None` if that was not necessary again.
    pub(super) challenge: Option<ChallengeKind>,
}

/// An order that is not finished, with the key that its certificate is for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UnfinishedOrder {
    url: String,
    directory: String,
    profile: Option<String>,
    key_type: String,
    key: Zeroizing<String>,
}

impl UnfinishedOrder {
    /// Whether it is for a certificate as the authority is configured now.
    fn fits(&self, config: &AcmeConfig) -> bool {
        *self.directory == *config.directory
            && self.profile.as_deref() == config.profile.as_deref()
            && self.key_type == key_type_name(config.key_type)
    }

    /// Whether its certificate is the one that is served, with this key: the store was away when it was issued. The
    /// authority would give the same one again.
    fn is_done(&self, served_key: Option<&[u8]>) -> bool {
        served_key.is_some_and(|served| public_key(&self.key).as_deref() == Some(served))
    }
}

/// An order and its key.
struct OpenOrder {
    order: Order,
    key: Zeroizing<String>,
}

impl<S: ItemStore> OrderPlan<'_, S> {
    /// Gets the certificate. The caller closes the challenges afterwards, whatever has happened.
    pub(super) async fn run(&self) -> Result<ObtainedCertificate, AcmeError> {
        let mut result = self.run_with_account().await;
        if let (Err(AcmeError::UnknownAccount(why)), false) = (&result, self.is_trial) {
            let authority = &*self.authority.config.name;
            tracing::warn!(
                authority,
                why,
                "account not known to the certificate authority; another one is created"
            );
            forget_account(self.authority).await?;
            self.forget().await?;
            result = self.run_with_account().await;
        }
        if let Err(error) = &result
            && error.kind() == FailureKind::Refused
        {
            // This order can only fail again.
            self.forget().await?;
        }
        result
    }

    /// Forgets the order, once it is finished or has failed.
    pub(super) async fn forget(&self) -> Result<(), AcmeError> {
        match self.is_trial {
            true => Ok(()),
            false => Ok(self
                .authority
                .store
                .remove(ItemKind::Order, self.item)
                .await?),
        }
    }

    async fn run_with_account(&self) -> Result<ObtainedCertificate, AcmeError> {
        let session = open_session(self.authority, self.is_trial).await?;
        let mut open = match self.unfinished(&session).await? {
            Some(open) => open,
            None => self.begin(&session).await?,
        };
        let challenge = match open.order.state().status {
            OrderStatus::Pending => self.prove(&session, &mut open.order).await?,
            _ => None,
        };
        if open.order.state().status == OrderStatus::Ready {
            let request = request(open.key.clone(), self.names).await?;
            let finalized = open.order.finalize_csr(&request).await;
            finalized.map_err(|error| session.error(error))?;
        }
        let chain = open.order.poll_certificate(&POLLS).await;
        let chain = chain.map_err(|error| session.error(error))?;
        let form = stored_form(&self.authority.config.directory, &open.key, &chain);
        let issued = IssuedCertificate::parse(&form).map_err(AcmeError::Malformed)?;
        if let Some(name) = issued.missing(self.names) {
            let text = format!("the certificate is not valid for `{name}`");
            return Err(AcmeError::Malformed(text));
        }
        Ok(ObtainedCertificate {
            form,
            issued,
            challenge,
        })
    }

    /// An order that was begun earlier, perhaps by a node that was killed, if it can still be continued.
    async fn unfinished(&self, session: &AuthoritySession) -> Result<Option<OpenOrder>, AcmeError> {
        if self.is_trial {
            return Ok(None);
        }
        let store = &self.authority.store;
        let json = match store.read(ItemKind::Order, self.item).await {
            // The node that has begun it had another secret.
            Err(error) if error.is_sealed() => {
                tracing::info!(%error, "an order that was begun earlier is forgotten");
                self.forget().await?;
                return Ok(None);
            }
            read => read?.map(Zeroizing::new),
        };
        let Some(json) = json else {
            return Ok(None);
        };
        let found = serde_json::from_slice::<UnfinishedOrder>(&json).ok();
        let found = found.filter(|found| {
            found.fits(&self.authority.config) && !found.is_done(self.served_key.as_deref())
        });
        let Some(found) = found else {
            self.forget().await?;
            return Ok(None);
        };
        let error = match session.account.order(found.url).await {
            Ok(mut order) => {
                if order.state().status != OrderStatus::Invalid {
                    tracing::info!(item = self.item, "order of a certificate continued");
                    let key = found.key;
                    return Ok(Some(OpenOrder { order, key }));
                }
                None
            }
            Err(error) => Some(session.error(error)),
        };
        match error {
            Some(error) if error.kind() != FailureKind::Refused => Err(error),
            // The authority has forgotten it, or it has failed.
            Some(error @ AcmeError::UnknownAccount(_)) => Err(error),
            _ => {
                self.forget().await?;
                Ok(None)
            }
        }
    }

    async fn begin(&self, session: &AuthoritySession) -> Result<OpenOrder, AcmeError> {
        let config = &self.authority.config;
        let key = new_key(config.key_type).await?;
        let order = match self.new_order(session, self.replaces.clone()).await {
            // The authority does not deal with replacements, or has replaced this one already.
            Err(AcmeError::Rejected(_) | AcmeError::Malformed(_)) if self.replaces.is_some() => {
                self.new_order(session, None).await?
            }
            result => result?,
        };
        if !self.is_trial {
            let unfinished = UnfinishedOrder {
                url: order.url().to_owned(),
                directory: config.directory.to_string(),
                profile: config.profile.as_deref().map(str::to_owned),
                key_type: key_type_name(config.key_type).to_owned(),
                key: key.clone(),
            };
            let json = serde_json::to_vec(&unfinished);
            let json = json.map_err(|error| AcmeError::Malformed(error.to_string()))?;
            self.authority
                .store
                .write(ItemKind::Order, self.item, json)
                .await?;
        }
        Ok(OpenOrder { order, key })
    }

    async fn new_order(
        &self,
        session: &AuthoritySession,
        replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<Order, AcmeError> {
        let identifiers = self
            .names
            .iter()
            .map(|name| Identifier::Dns(name.to_string()));
        let identifiers: Vec<Identifier> = identifiers.collect();
        let mut new = NewOrder::new(&identifiers);
        if let Some(profile) = &self.authority.config.profile {
            new = new.profile(profile);
        }
        if let Some(replaces) = replaces {
            new = new.replaces(replaces);
        }
        let ordered = session.account.new_order(&new).await;
        ordered.map_err(|error| session.error(error))
    }

    /// Proves the names that are not proved yet. Returns how, as far as it was necessary.
    async fn prove(
        &self,
        session: &AuthoritySession,
        order: &mut Order,
    ) -> Result<Option<ChallengeKind>, AcmeError> {
        let challenges = self.choose(session, order).await?;
        let _claim = self.authority.claim(&challenges).await;
        for challenge in &challenges {
            self.authority.open(self.item, challenge).await?;
        }
        tokio::time::sleep(self.authority.answer_delay(&challenges)).await;
        self.validate(session, order, &challenges).await?;
        let kind = challenges.last().and_then(OpenChallenge::kind);
        match order.poll_ready(&POLLS).await {
            Ok(OrderStatus::Invalid) => Err(self.refusal(session, order, None).await),
            Ok(_) => Ok(kind),
            Err(ProtocolError::Api(problem)) => {
                let text = problem_text(&problem);
                match session.error(ProtocolError::Api(problem)) {
                    AcmeError::Rejected(_) => Err(self.refusal(session, order, Some(text)).await),
                    other => Err(other),
                }
            }
            Err(error) => Err(session.error(error)),
        }
    }

    /// The challenges by which the names are proved.
    async fn choose(
        &self,
        session: &AuthoritySession,
        order: &mut Order,
    ) -> Result<Vec<OpenChallenge>, AcmeError> {
        let mut chosen = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| session.error(error))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let Identifier::Dns(name) = authorization.identifier().identifier.clone() else {
                return Err(AcmeError::Malformed(
                    "a name that was not ordered".to_owned(),
                ));
            };
            let pattern = match authorization.wildcard {
                true => HostPattern::Wildcard(name.as_str().into()),
                false => HostPattern::Exact(name.as_str().into()),
            };
            let offered = authorization
                .challenges
                .iter()
                .map(|challenge| &challenge.r#type);
            let offered: Vec<_> = offered.cloned().collect();
            let allowed = self.authority.config.challenges.iter().copied();
            let usable: Vec<ChallengeKind> = allowed
                .filter(|kind| kind.proves(&pattern) && offered.contains(&protocol_type(*kind)))
                .collect();
            let turn = self.attempt.checked_rem(usable.len());
            let kind = turn.and_then(|turn| usable.get(turn)).copied();
            let no_challenge = || AcmeError::NoChallenge {
                name: pattern.to_string(),
            };
            let kind = kind.ok_or_else(no_challenge)?;
            let challenge = authorization
                .challenge(protocol_type(kind))
                .ok_or_else(no_challenge)?;
            let answer = challenge.key_authorization();
            let token = challenge.token.clone();
            chosen.push(OpenChallenge::new(kind, name, token, answer.as_str()));
        }
        Ok(chosen)
    }

    /// Asks the authority to validate the challenges.
    async fn validate(
        &self,
        session: &AuthoritySession,
        order: &mut Order,
        challenges: &[OpenChallenge],
    ) -> Result<(), AcmeError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| session.error(error))?;
            let offered = &authorization.challenges;
            let kind = offered.iter().find_map(|offered| {
                let mut opened = challenges
                    .iter()
                    .filter(|opened| opened.token == offered.token);
                let is_chosen = |kind: &ChallengeKind| protocol_type(*kind) == offered.r#type;
                opened.find_map(|opened| opened.kind().filter(is_chosen))
            });
            let Some(kind) = kind else {
                continue;
            };
            if let Some(mut challenge) = authorization.challenge(protocol_type(kind))
                && challenge.status == ChallengeStatus::Pending
            {
                challenge
                    .set_ready()
                    .await
                    .map_err(|error| session.error(error))?;
            }
        }
        Ok(())
    }

    /// Why a name was not proved, in the words of the authority.
    async fn refusal(
        &self,
        session: &AuthoritySession,
        order: &mut Order,
        otherwise: Option<String>,
    ) -> AcmeError {
        let mut said = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let authorization = match authorization {
                Ok(authorization) => authorization,
                Err(error) => {
                    tracing::debug!(error = %session.error(error), "reason of a failed validation not read");
                    break;
                }
            };
            let name = authorization.identifier().to_string();
            for challenge in &authorization.challenges {
                if let Some(problem) = &challenge.error {
                    let kind = self
                        .authority
                        .config
                        .challenges
                        .iter()
                        .find(|kind| protocol_type(**kind) == challenge.r#type);
                    let kind = kind.map_or("", |kind| kind.token());
                    said.push(format!("{name} by {kind}: {}", problem_text(problem)));
                }
            }
        }
        if said.is_empty() {
            said.push(otherwise.unwrap_or_else(|| "no reason is given".to_owned()));
        }
        AcmeError::Validation(said.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{authority, issued_form};
    use super::*;
    use crate::config::model::KeyType;

    /// An unfinished order of [`authority`] with this key.
    fn order(key: &str, key_type: KeyType) -> UnfinishedOrder {
        UnfinishedOrder {
            url: "https://ca.invalid/order".to_owned(),
            directory: authority().directory.to_string(),
            profile: None,
            key_type: key_type_name(key_type).to_owned(),
            key: Zeroizing::new(key.to_owned()),
        }
    }

    #[tokio::test]
    async fn an_order_whose_certificate_is_served_is_not_continued() {
        let form = issued_form(&["a.example.com"], -1, 89);
        let text = str::from_utf8(&form).unwrap();
        let begin = text.find("-----BEGIN PRIVATE KEY").unwrap();
        let end = text.find("-----BEGIN CERTIFICATE").unwrap();
        let served = IssuedCertificate::parse(&form).unwrap().facts.public_key;
        let done = order(&text[begin..end], KeyType::EcdsaP256);
        assert!(done.fits(&authority()) && done.is_done(Some(&served)));
        // A node that was killed has not served it.
        assert!(!done.is_done(None));
        for key_type in [KeyType::EcdsaP256, KeyType::Rsa2048] {
            let next = order(&new_key(key_type).await.unwrap(), key_type);
            assert!(!next.is_done(Some(&served)), "{key_type:?}");
        }
        assert!(!order("not a key", KeyType::EcdsaP256).is_done(Some(&served)));
    }
}
