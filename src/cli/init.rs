//! `tidegate init`: a small configuration to begin with. What it means is up to `check`, which reads it as it
//! reads any other.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tidegate::config;

use super::{ExitStatus, check, colour, err, out};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file is never overwritten. Paths are written in full, so that it may be moved."
)]
pub(super) struct InitArgs {
    /// The file to write; `-` prints it
    #[arg(value_name = "FILE", default_value = "config.toml")]
    to: PathBuf,
    /// A host that clients connect to, e.g. `chat.example.com`; may be given several times
    #[arg(long = "host", value_name = "NAME", required_if_eq("acme", "true"))]
    hosts: Vec<String>,
    /// A backend, e.g. `10.0.0.11:9000`; may be given several times
    #[arg(
        long = "backend",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9000"
    )]
    backends: Vec<String>,
    /// The certificate, with the intermediate ones after it (PEM)
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with = "acme")]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Make a certificate beside FILE, to try things out: no client trusts it
    #[arg(long, conflicts_with_all = ["acme", "cert"])]
    self_signed: bool,
    /// Obtain the certificate from Let's Encrypt
    #[arg(long, requires = "agree")]
    acme: bool,
    /// You agree to the terms of service of Let's Encrypt (https://letsencrypt.org/repository/)
    #[arg(long, requires = "acme")]
    agree: bool,
    /// An address for messages from Let's Encrypt
    #[arg(long, value_name = "ADDRESS", requires = "acme")]
    email: Option<String>,
    /// Where to accept connections [default: port 443 with a certificate, otherwise 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// A network of load balancers in front, e.g. `10.0.0.0/8`: their forwarding headers are trusted
    #[arg(long, value_name = "NETWORK")]
    behind: Vec<String>,
}

/// Writes the configuration, and reports what is wrong with it or missing.
pub(super) fn init(args: &InitArgs) -> ExitCode {
    let made = args.self_signed.then(|| SelfSigned::beside(&args.to));
    let text = args.configuration(made.as_ref());
    if args.to == Path::new("-") {
        if made.is_some() {
            err("--self-signed writes files beside FILE, which cannot be `-`\n");
            return ExitStatus::Usage.into();
        }
        out(&text);
        return ExitCode::SUCCESS;
    }
    let path = args.to.display();
    if let Err(error) = write_new(&args.to, &text, 0o666) {
        return unwritten(&args.to, &error);
    }
    if let Some(Err((path, error))) = made.map(|made| made.write(&args.hosts)) {
        // It would refer to files that are not those of this command.
        let _ = std::fs::remove_file(&args.to);
        return unwritten(&path, &error);
    }
    out(&format!("wrote {path}\n"));
    match config::load(&args.to) {
        Ok(loaded) => {
            err(&loaded.warnings.render(colour()));
            out(&format!(
                "next: tidegate check {path}, then tidegate run --config {path}\n"
            ));
            ExitCode::SUCCESS
        }
        Err(report) => {
            let status = check::refuse(&args.to, &report);
            err(&format!(
                "next: correct {path}, or delete it and run `tidegate init` with other options\n"
            ));
            status
        }
    }
}

/// Reports why a file was not written.
fn unwritten(path: &Path, error: &io::Error) -> ExitCode {
    let why = match error.kind() {
        ErrorKind::AlreadyExists => {
            "it is there already, and `init` overwrites nothing; move it away, or name another file"
                .to_owned()
        }
        _ => error.to_string(),
    };
    err(&format!("cannot write {}: {why}\n", path.display()));
    ExitStatus::Config.into()
}

/// Writes a file that must not be there yet.
fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create_new(true).mode(mode);
    options.open(path)?.write_all(text.as_bytes())
}

/// A certificate that is made here, and its key.
#[derive(Debug)]
struct SelfSigned {
    cert: PathBuf,
    key: PathBuf,
}

impl SelfSigned {
    fn beside(config: &Path) -> Self {
        Self {
            cert: config.with_file_name("self-signed.pem"),
            key: config.with_file_name("self-signed.key"),
        }
    }

    /// Makes it for these hosts, or for this machine, and writes both files, which must not be there yet.
    fn write(self, hosts: &[String]) -> Result<(), (PathBuf, io::Error)> {
        let here = || {
            ["localhost", "127.0.0.1", "::1"]
                .map(str::to_owned)
                .to_vec()
        };
        let names = if hosts.is_empty() {
            here()
        } else {
            hosts.to_vec()
        };
        let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other);
        let made = made.map_err(|error| (self.cert.clone(), error))?;
        let key = write_new(&self.key, &made.signing_key.serialize_pem(), 0o600);
        key.map_err(|error| (self.key, error))?;
        let cert = write_new(&self.cert, &made.cert.pem(), 0o666);
        cert.map_err(|error| (self.cert, error))
    }
}

impl InitArgs {
    fn has_tls(&self) -> bool {
        self.acme || self.self_signed || self.cert.is_some()
    }

    /// The file; with the certificate that is made, if one is.
    fn configuration(&self, made: Option<&SelfSigned>) -> String {
        let mut text = "# A first configuration. `tidegate check` reports what is wrong with it, and \
                        `tidegate reload` applies a change.\n# Every key is in docs/configuration.md.\n\n"
            .to_owned();
        if self.acme {
            self.authority(&mut text);
        }
        self.listeners(&mut text, made);
        self.route(&mut text);
        let _ = write!(
            text,
            "[upstream.backends]\n\
             endpoints = {}\n\
             # A backend that does not accept connections gets no clients. Better, if your server has a WebSocket\n\
             # that needs no login: health = {{ websocket = {{ path = \"/\" }} }}\n\
             health = {{ tcp = {{}} }}\n\
             # Clients that must return to the same backend, such as those of Socket.IO:\n\
             #sticky = {{ cookie = \"srv\", ttl = \"1h\" }}\n",
            list(&self.backends)
        );
        text
    }

    fn authority(&self, text: &mut String) {
        text.push_str(
            "# The certificate is obtained and renewed by tidegate itself. Its names must lead to this machine.\n\
             [acme.letsencrypt]\n\
             directory = \"letsencrypt\"\n\
             terms_agreed = true\n",
        );
        if let Some(email) = &self.email {
            let _ = writeln!(text, "email = {}", quoted(email));
        }
        text.push('\n');
    }

    fn listeners(&self, text: &mut String, made: Option<&SelfSigned>) {
        let anywhere = |port: u16| vec![format!("0.0.0.0:{port}"), format!("[::]:{port}")];
        let bind = match (self.listen.is_empty(), self.has_tls()) {
            (false, _) => self.listen.clone(),
            (true, true) => anywhere(443),
            (true, false) if self.behind.is_empty() => vec!["127.0.0.1:8080".to_owned()],
            (true, false) => anywhere(80),
        };
        let _ = write!(
            text,
            "# Where clients connect.\n[listener.public]\nbind = {}\n",
            list(&bind)
        );
        if !self.behind.is_empty() {
            let networks = list(&self.behind);
            let _ = writeln!(
                text,
                "trusted_proxies = {networks}    # the client is the one that these name"
            );
        }
        let made = made.map(|made| (&made.cert, &made.key));
        if let Some((cert, key)) = made.or(self.cert.as_ref().zip(self.key.as_ref())) {
            let (cert, key) = (whole(cert), whole(key));
            let _ = writeln!(
                text,
                "tls.certificates = [{{ cert = {cert}, key = {key} }}]    # renewed files are applied"
            );
        } else if self.acme {
            let names = list(&self.hosts);
            let _ = writeln!(
                text,
                "tls.certificates = [{{ names = {names}, acme = \"letsencrypt\" }}]"
            );
        }
        if self.has_tls() && self.listen.is_empty() {
            let _ = write!(
                text,
                "\n[listener.plain]\nbind = {}\nredirect_to_https = true\n",
                list(&anywhere(80))
            );
        }
        text.push('\n');
    }

    fn route(&self, text: &mut String) {
        text.push_str(
            "# WebSockets need no settings: a request that asks for one is upgraded, and any other is proxied.\n\
             [[route]]\n",
        );
        if !self.hosts.is_empty() {
            let _ = writeln!(text, "hosts = {}", list(&self.hosts));
        }
        if self.hosts.is_empty() || (!self.has_tls() && self.behind.is_empty()) {
            text.push_str(
                "# Pages of any other site may open WebSockets here, with the cookies of their visitors, until you \
                 list\n# your own: origins = [\"https://chat.example.com\"]\n",
            );
        } else {
            let origins: Vec<String> = self
                .hosts
                .iter()
                .map(|it| format!("https://{it}"))
                .collect();
            let _ = writeln!(
                text,
                "origins = {}    # pages of other sites may not open WebSockets",
                list(&origins)
            );
        }
        text.push_str(
            "# A silent tunnel ends after ten minutes. With Pings, it ends only when a side does not respond:\n\
             timeouts.ping = \"25s\"\n\
             upstream = \"backends\"\n\n",
        );
    }
}

/// A string of TOML, whose escapes are those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", quoted.join(", "))
}

/// A path from the root on: the working directory is not that of the file.
fn whole(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    quoted(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct InitLine {
        #[command(flatten)]
        args: InitArgs,
    }

    fn configuration(line: &str) -> toml::Table {
        let line = InitLine::try_parse_from(line.split(' ')).unwrap();
        toml::from_str(&line.args.configuration(None)).unwrap()
    }

    #[test]
    fn what_is_written_is_what_the_options_say() {
        let made = configuration(
            "init --host a.example.com --host b.example.com --backend 10.0.0.1:9 --backend [fd00::1]:9 \
             --acme --agree --email a@b.example",
        );
        assert_eq!(
            made["acme"]["letsencrypt"]["email"].as_str(),
            Some("a@b.example")
        );
        let certificate = &made["listener"]["public"]["tls"]["certificates"][0];
        assert_eq!(certificate["names"].as_array().map(Vec::len), Some(2));
        assert_eq!(
            made["listener"]["plain"]["redirect_to_https"].as_bool(),
            Some(true)
        );
        assert_eq!(
            made["route"][0]["origins"][1].as_str(),
            Some("https://b.example.com")
        );
        assert_eq!(
            made["upstream"]["backends"]["endpoints"][1].as_str(),
            Some("[fd00::1]:9")
        );

        let made = configuration("init --behind 10.0.0.0/8 --host a.example.com");
        assert_eq!(
            made["listener"]["public"]["bind"][0].as_str(),
            Some("0.0.0.0:80")
        );
        assert_eq!(
            made["listener"]["public"]["trusted_proxies"][0].as_str(),
            Some("10.0.0.0/8")
        );
        assert_eq!(
            made["route"][0]["origins"][0].as_str(),
            Some("https://a.example.com")
        );

        let made = configuration("init --host a\"b");
        assert_eq!(made["route"][0]["hosts"][0].as_str(), Some("a\"b"));
    }

    #[test]
    fn options_that_need_one_another() {
        for wrong in [
            "init --acme --host a.example",
            "init --cert a.pem",
            "init --acme --agree",
            "init --agree",
        ] {
            assert!(
                InitLine::try_parse_from(wrong.split(' ')).is_err(),
                "{wrong}"
            );
        }
    }
}
