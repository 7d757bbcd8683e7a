//! The account with an authority: loaded from the folder, or created.

use std::sync::Arc;

use instant_acme::{
    Account, AccountCredentials, Error as ProtocolError, ExternalAccountKey, NewAccount,
};

use serde_json::Value;

use super::authority::Authority;
use super::errors::AcmeError;
use super::item_name::short_hash;
use super::transport::{OrderTransport, ResponseNotes};
use crate::config::model::AcmeConfig;
use crate::store::{ItemKind, ItemStore};

/// Where the e-mail address is noted beside the credentials.
const EMAIL: &str = "email";

/// A conversation with an authority, for one order.
pub(super) struct AuthoritySession {
    /// The account.
    pub(super) account: Account,
    notes: Arc<ResponseNotes>,
}

impl AuthoritySession {
    /// What a failure of the protocol means.
    pub(super) fn error(&self, error: ProtocolError) -> AcmeError {
        AcmeError::of(error, &self.notes)
    }
}

/// A conversation through the stored account, or through a new one, which is stored. A trial's own account is not
/// stored, unless it is bound to an external one: authorities accept the key of that only once.
pub(super) async fn open_session<S: ItemStore>(
    authority: &Authority<S>,
    is_trial: bool,
) -> Result<AuthoritySession, AcmeError> {
    if let Some(session) = stored_session(authority).await? {
        return Ok(session);
    }
    let (session, credentials) = create(authority).await?;
    if is_trial && authority.config.external_account.is_none() {
        return Ok(session);
    }
    let json = serde_json::to_value(&credentials)
        .map_err(|error| AcmeError::Malformed(error.to_string()))?;
    let json = with_email(json, &authority.config);
    let name = item_name(&authority.config);
    if authority
        .store
        .create(ItemKind::Account, &name, json)
        .await?
    {
        tracing::info!(
            authority = &*authority.config.name,
            directory = &*authority.config.directory,
            "account with the certificate authority created"
        );
        return Ok(session);
    }
    // Another node was faster. One account is enough.
    Ok(stored_session(authority).await?.unwrap_or(session))
}

/// A conversation through the stored account, if there is one.
pub(super) async fn stored_session<S: ItemStore>(
    authority: &Authority<S>,
) -> Result<Option<AuthoritySession>, AcmeError> {
    let name = item_name(&authority.config);
    let Some(json) = authority.store.read(ItemKind::Account, &name).await? else {
        return Ok(None);
    };
    let unusable = |_| AcmeError::Stored {
        what: "the account",
        why: "it is not what was written".to_owned(),
    };
    let stored: Value = serde_json::from_slice(&json).map_err(unusable)?;
    let credentials: AccountCredentials = serde_json::from_slice(&json).map_err(unusable)?;
    let notes = Arc::new(ResponseNotes::default());
    let transport = OrderTransport::new(authority.client()?, Arc::clone(&notes));
    let restored = Account::builder_with_http(Box::new(transport)).from_credentials(credentials);
    let account = restored
        .await
        .map_err(|error| AcmeError::of(error, &notes))?;
    let session = AuthoritySession { account, notes };
    if stored[EMAIL] != email(&authority.config) {
        change_email(authority, &session, stored).await?;
    }
    Ok(Some(session))
}

/// Sends the e-mail address of the configuration to the authority, and notes it. If the authority does not accept it,
/// that prevents no order.
async fn change_email<S: ItemStore>(
    authority: &Authority<S>,
    session: &AuthoritySession,
    stored: Value,
) -> Result<(), AcmeError> {
    let config = &authority.config;
    let contact = config.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.as_deref().into_iter().collect();
    match session.account.update_contacts(&contact).await {
        Ok(()) => {
            let name = item_name(config);
            let json = with_email(stored, config);
            authority
                .store
                .write(ItemKind::Account, &name, json)
                .await?;
            let authority = &*config.name;
            tracing::info!(authority, "e-mail address of the account changed");
            Ok(())
        }
        Err(error) => match session.error(error) {
            error @ AcmeError::UnknownAccount(_) => Err(error),
            error => {
                let authority = &*config.name;
                tracing::warn!(authority, %error, "e-mail address of the account not changed; it is tried again at the next order");
                Ok(())
            }
        },
    }
}

/// The e-mail address as it is noted.
fn email(config: &AcmeConfig) -> Value {
    Value::from(config.email.as_deref().unwrap_or_default())
}

/// What is stored of an account, with the e-mail address that the authority knows.
fn with_email(mut account: Value, config: &AcmeConfig) -> Vec<u8> {
    if let Value::Object(account) = &mut account {
        account.insert(EMAIL.to_owned(), email(config));
    }
    account.to_string().into_bytes()
}

/// Forgets the stored account: the authority does not know it.
pub(super) async fn forget_account<S: ItemStore>(
    authority: &Authority<S>,
) -> Result<(), AcmeError> {
    let name = item_name(&authority.config);
    Ok(authority.store.remove(ItemKind::Account, &name).await?)
}

async fn create<S: ItemStore>(
    authority: &Authority<S>,
) -> Result<(AuthoritySession, AccountCredentials), AcmeError> {
    let config = &authority.config;
    let notes = Arc::new(ResponseNotes::default());
    let transport = OrderTransport::new(authority.client()?, Arc::clone(&notes));
    let contact = config.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.as_deref().into_iter().collect();
    let new = NewAccount {
        contact: &contact,
        // The configuration is rejected without it.
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let external = config.external_account.as_ref();
    let external =
        external.map(|bound| ExternalAccountKey::new(bound.id.to_string(), bound.key.bytes()));
    let builder = Account::builder_with_http(Box::new(transport));
    let created = builder.create(&new, config.directory.to_string(), external.as_ref());
    match created.await {
        Ok((account, credentials)) => Ok((AuthoritySession { account, notes }, credentials)),
        Err(error) => Err(AcmeError::of(error, &notes)),
    }
}

/// The name of the stored account: it belongs to a directory, and to an account outside ACME.
fn item_name(config: &AcmeConfig) -> String {
    let external = config
        .external_account
        .as_ref()
        .map_or("", |external| &*external.id);
    short_hash(format!("{}\n{external}", config.directory).as_bytes())
}
