//! `tidegate certificates`.

use clap::Args;
use tidegate::admin::api::certificates::{
    CertificateDetails, CertificatesResponse, OrderRequest, RenewResponse, TrialResponse,
};
use tidegate::admin::api::operation::Operation;

use super::{NOTHING, show_json};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::out;
use crate::cli::screen::Screen;
use crate::cli::table::{Cell, Column, Style, harmless, table};

#[derive(Debug, Args)]
pub(in crate::cli) struct CertificatesArgs {
    /// Renew the certificate of this name now, whether that is due or not
    #[arg(long, value_name = "NAME", conflicts_with = "try_name")]
    renew: Option<String>,
    /// Order the certificate of this name from the staging directory of its authority; nothing is stored or served
    #[arg(long = "try", value_name = "NAME")]
    try_name: Option<String>,
    #[command(flatten)]
    client: AdminClient,
}

pub(super) fn certificates(verb: &CertificatesArgs) -> Result<(), ClientError> {
    match (&verb.renew, &verb.try_name) {
        (Some(name), _) => renew(&verb.client, name),
        (None, Some(name)) => try_order(&verb.client, name),
        (None, None) => list(&verb.client),
    }
}

fn renew(client: &AdminClient, name: &str) -> Result<(), ClientError> {
    let order = OrderRequest {
        name: name.to_owned(),
    };
    let response = client.ask(Operation::RenewCertificate, "", Some(&order))?;
    if client.json {
        show_json(&response);
        return Ok(());
    }
    let renewed: RenewResponse = client.read(&response)?;
    let what = match renewed.certificates {
        1 => "1 certificate".to_owned(),
        more => format!("{more} certificates"),
    };
    out(&format!(
        "{what} for {} will be renewed now; `tidegate certificates` shows how that goes\n",
        harmless(name)
    ));
    Ok(())
}

fn try_order(client: &AdminClient, name: &str) -> Result<(), ClientError> {
    let order = OrderRequest {
        name: name.to_owned(),
    };
    let response = client.ask(Operation::TryCertificate, "", Some(&order))?;
    if client.json {
        show_json(&response);
        return Ok(());
    }
    let trial: TrialResponse = client.read(&response)?;
    out(&format!(
        "`{}` has issued a certificate for {}, from {}; it was not stored\n",
        harmless(&trial.issuer),
        harmless(name),
        harmless(&trial.directory)
    ));
    Ok(())
}

fn list(client: &AdminClient) -> Result<(), ClientError> {
    let response = client.ask(Operation::Certificates, "", NOTHING)?;
    if client.json {
        show_json(&response);
        return Ok(());
    }
    let listed: CertificatesResponse = client.read(&response)?;
    if listed.certificates.is_empty() {
        out("no listener has a certificate\n");
        return Ok(());
    }
    let rows: Vec<Vec<Cell>> = listed.certificates.iter().map(row).collect();
    out(&table(&COLUMNS, &rows, Screen::of_output()));
    Ok(())
}

const COLUMNS: [Column; 8] = [
    Column::kept("LISTENER"),
    Column::wrapped("NAMES"),
    Column::dropped("ISSUER", 2),
    Column::kept("EXPIRES"),
    Column::kept("LEFT"),
    Column::dropped("SOURCE", 3),
    Column::dropped("NEXT RENEWAL", 1),
    Column::wrapped("LAST ERROR"),
];

/// Less than this share of its life should not be left: renewals are due at a third.
const LITTLE: f64 = 0.2;

fn row(certificate: &CertificateDetails) -> Vec<Cell> {
    let text = |text: &Option<String>| Cell::text(text.as_deref().unwrap_or("-"));
    let expires = match (&certificate.expires, certificate.self_signed) {
        (None, _) => Cell::text("not issued yet").style(Style::Bad),
        (Some(_), true) => Cell::text("self-signed").style(Style::Warning),
        (Some(time), false) => Cell::text(time),
    };
    let left = match certificate.share_left {
        Some(share) if !certificate.self_signed => {
            let style = match share {
                ..=0.0 => Style::Bad,
                share if share < LITTLE => Style::Warning,
                _ => Style::Plain,
            };
            Cell::number(format!("{:.0} %", (share * 100.0).floor())).style(style)
        }
        _ => Cell::number("-"),
    };
    let source = match (&certificate.file, &certificate.authority) {
        (Some(file), _) => Cell::text(file),
        (None, Some(authority)) => Cell::text(&format!("acme {authority}")),
        (None, None) => Cell::text("-"),
    };
    let next = match certificate.ordering {
        true => Cell::text("now"),
        false => text(&certificate.next_renewal),
    };
    vec![
        Cell::text(&certificate.listener),
        Cell::text(&certificate.names.join(", ")),
        text(&certificate.issuer),
        expires,
        left,
        source,
        next,
        text(match certificate.folder_error {
            Some(_) => &certificate.folder_error,
            None => &certificate.last_error,
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_is_served_and_what_is_planned() {
        let issued = CertificateDetails {
            listener: "public".into(),
            names: vec!["a.example.com".into(), "b.example.com".into()],
            file: None,
            authority: Some("letsencrypt".into()),
            issuer: Some("R10".into()),
            not_before: Some("2026-11-01T00:00:00Z".into()),
            expires: Some("2027-01-30T00:00:00Z".into()),
            share_left: Some(0.129),
            self_signed: false,
            next_renewal: Some("2026-12-31T00:00:00Z".into()),
            ordering: false,
            failures_in_row: 2,
            last_error: Some("validation failed".into()),
            last_error_at: None,
            folder_error: None,
        };
        let missing = CertificateDetails {
            file: None,
            issuer: None,
            expires: None,
            share_left: None,
            ordering: true,
            last_error: None,
            ..issued.clone()
        };
        let filed = CertificateDetails {
            file: Some("old.pem".into()),
            authority: None,
            next_renewal: None,
            last_error: None,
            share_left: Some(1.0),
            ..issued.clone()
        };
        let rows = [issued, missing, filed].map(|it| row(&it));
        let shown = table(&COLUMNS, &rows, Screen::default());
        let expected = "\
LISTENER  NAMES                         ISSUER  EXPIRES                LEFT  SOURCE            NEXT RENEWAL          LAST ERROR
public    a.example.com, b.example.com  R10     2027-01-30T00:00:00Z   12 %  acme letsencrypt  2026-12-31T00:00:00Z  validation failed
public    a.example.com, b.example.com  -       not issued yet            -  acme letsencrypt  now                   -
public    a.example.com, b.example.com  R10     2027-01-30T00:00:00Z  100 %  old.pem           -                     -
";
        assert_eq!(shown, expected);
    }
}
