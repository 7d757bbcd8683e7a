//! The sections of a manual page that the help of a command does not have: EXAMPLES, FILES and SEE ALSO.

use clap::Command;
use clap_mangen::roff::{Inline, Roff, bold, roman};

/// Command lines, and what each is for, by command: the empty name is the program itself.
const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "",
        &[
            (
                "tidegate demo",
                "Try tidegate without a configuration: opens a page with a chat room, a dashboard and an echo.",
            ),
            (
                "tidegate check /etc/tidegate/config.toml",
                "Report every problem of a configuration, with its line.",
            ),
            (
                "tidegate run --config chat.toml",
                "Run in the foreground until Ctrl-C.",
            ),
        ],
    ),
    (
        "run",
        &[(
            "tidegate run --config /etc/tidegate/config.toml",
            "Run in the foreground; the log goes to standard error.",
        )],
    ),
    (
        "check",
        &[
            (
                "tidegate check /etc/tidegate/config.toml",
                "Report every problem of the file, and of the files that it names.",
            ),
            (
                "tidegate check --json new.toml",
                "Report them as one JSON object, for a deployment script.",
            ),
        ],
    ),
    (
        "init",
        &[
            (
                "tidegate init --host chat.example.com --backend 10.0.0.11:9000 --cert chat.pem --key chat.key",
                "Write config.toml: wss for one host, in front of one backend.",
            ),
            (
                "tidegate init --host chat.example.com --acme --agree /etc/tidegate/config.toml",
                "The same for a backend on port 9000 of this machine, with a certificate from Let's Encrypt.",
            ),
        ],
    ),
    (
        "demo",
        &[(
            "tidegate demo --port 9443",
            "Open the page of the demo on port 9443.",
        )],
    ),
    (
        "status",
        &[
            (
                "tidegate status",
                "Show upstreams and endpoints, and why any is out of rotation.",
            ),
            (
                "tidegate status --watch 5s",
                "Show it again every five seconds.",
            ),
            (
                "tidegate status --generation 3",
                "Show an older generation, which still drains after an upgrade.",
            ),
        ],
    ),
    (
        "dashboard",
        &[
            (
                "tidegate dashboard",
                "Print the address of a page that shows endpoints, rates, drains and problems live.",
            ),
            (
                "tidegate dashboard --steer --port 9000",
                "Let the page also drain, close and reload, and serve it on port 9000.",
            ),
            (
                "tidegate dashboard --admin https://gate1.example.com:9900 --token-file read.token",
                "Show a tidegate on another machine.",
            ),
        ],
    ),
    #[cfg(feature = "top")]
    (
        "top",
        &[
            (
                "tidegate top",
                "Show endpoints, the busiest tunnels and problems in this terminal; `?` lists the keys.",
            ),
            (
                "tidegate top --admin https://gate1.example.com:9900 --token-file steer.token",
                "Show a tidegate on another machine.",
            ),
        ],
    ),
    (
        "tunnels",
        &[
            (
                "tidegate tunnels --rates --limit 10",
                "List the ten busiest tunnels.",
            ),
            (
                "tidegate tunnels --client 192.0.2.0/24 --older-than 1h",
                "List the tunnels of a network that have been open for an hour.",
            ),
        ],
    ),
    (
        "close",
        &[
            (
                "tidegate close --endpoint 192.0.2.11:9000 --over 2m --yes",
                "Move the clients of an endpoint within two minutes: they are asked to reconnect (1012).",
            ),
            (
                "tidegate close --client 198.51.100.7 --yes",
                "Close all tunnels of a client, which is not asked to reconnect (1008).",
            ),
            (
                "tidegate close --kind stream --all --over 2m --yes",
                "End all event streams, long polls and other plain requests that last.",
            ),
        ],
    ),
    (
        "revoke",
        &[
            (
                "tidegate revoke alice",
                "Log a user out: end her tunnels, and refuse the credentials that she has.",
            ),
            (
                "tidegate revoke alice --auth players --for 7d",
                "The same where tokens are valid for a week, and only as `[auth.players]` knows her.",
            ),
        ],
    ),
    (
        "extend",
        &[(
            "tidegate extend 90f8c1b2a3d4e5f6 10m",
            "Let a tunnel go on for ten minutes, whatever its credential says.",
        )],
    ),
    (
        "drain",
        &[
            (
                "tidegate drain 192.0.2.11:9000",
                "Send no new sessions to an endpoint.",
            ),
            (
                "tidegate drain --listener public",
                "Accept no new connections on a listener.",
            ),
            (
                "tidegate drain 192.0.2.11:9000 --fleet",
                "Send no new sessions to an endpoint from any node of the fleet.",
            ),
        ],
    ),
    (
        "undrain",
        &[(
            "tidegate undrain 192.0.2.11:9000",
            "Put an endpoint back into service.",
        )],
    ),
    (
        "weight",
        &[
            (
                "tidegate weight 192.0.2.11:9000 50",
                "Give an endpoint the weight 50.",
            ),
            (
                "tidegate weight 192.0.2.11:9000",
                "Give it its configured weight again.",
            ),
        ],
    ),
    (
        "certificates",
        &[
            (
                "tidegate certificates",
                "Show until when each certificate is valid, and why any could not be renewed.",
            ),
            (
                "tidegate certificates --try chat.example.com",
                "See whether the authority can validate a name, without using up its rate limits.",
            ),
        ],
    ),
    (
        "reload",
        &[
            (
                "tidegate reload --plan",
                "Show what the changed file would do, and to how many tunnels, before it is loaded.",
            ),
            ("tidegate reload", "Load it."),
        ],
    ),
    (
        "upgrade",
        &[
            (
                "tidegate upgrade",
                "Hand over to the binary that now has the path of the running one.",
            ),
            (
                "tidegate upgrade /opt/tidegate-0.2.0/tidegate",
                "Hand over to another binary.",
            ),
        ],
    ),
    (
        "explain",
        &[(
            "tidegate explain wss://chat.example.com/realtime -H 'Origin: https://chat.example.com'",
            "Show the route and the endpoint of a handshake, and why it gets them.",
        )],
    ),
    (
        "probe",
        &[
            (
                "tidegate probe wss://chat.example.com/realtime",
                "Open a WebSocket as a client does, and time each step.",
            ),
            (
                "tidegate probe --resolve 127.0.0.1 --insecure wss://chat.example.com/realtime",
                "The same through this machine, before its certificate and its name are public.",
            ),
        ],
    ),
    (
        "schema",
        &[(
            "tidegate schema > tidegate.schema.json",
            "Write the schema to a file.",
        )],
    ),
    (
        "completions",
        &[(
            "tidegate completions bash > /usr/share/bash-completion/completions/tidegate",
            "Install the completions for bash.",
        )],
    ),
    (
        "man",
        &[(
            "tidegate man --out /usr/share/man/man1",
            "Install all manual pages.",
        )],
    ),
];

const CONFIGURATION: (&str, &str) = (
    "/etc/tidegate/config.toml",
    "The configuration. /usr/share/doc/tidegate/docs/configuration.md describes every key.",
);

const ADMIN_SOCKET: (&str, &str) = (
    "/run/tidegate/admin.sock",
    "The socket on which the running tidegate takes commands; $XDG_RUNTIME_DIR/tidegate/admin.sock if its user \
     may not use this one.",
);

/// Commands that speak to a running tidegate.
fn is_verb(command: &Command) -> bool {
    command
        .get_arguments()
        .any(|argument| argument.get_id() == "admin")
}

fn examples(name: &str) -> &'static [(&'static str, &'static str)] {
    let found = EXAMPLES.iter().find(|(of, _)| *of == name);
    found.map_or(&[], |(_, examples)| examples)
}

fn files(command: &Command) -> Vec<(&'static str, &'static str)> {
    if command.has_subcommands() {
        return vec![CONFIGURATION, ADMIN_SOCKET];
    }
    match command.get_name() {
        "run" | "check" => vec![CONFIGURATION],
        _ if is_verb(command) => vec![ADMIN_SOCKET],
        _ => Vec::new(),
    }
}

/// Appends EXAMPLES, FILES and SEE ALSO for this command, of those of `program`.
pub(super) fn append(page: &mut Roff, command: &Command, program: &Command) {
    let is_program = command.has_subcommands();
    let name = if is_program { "" } else { command.get_name() };
    if !is_program {
        page.control("SH", ["EXIT STATUS"]);
        page.text([
            roman("0 on success. "),
            bold("tidegate"),
            roman("(1) lists the others."),
        ]);
    }
    terms(page, "EXAMPLES", examples(name));
    terms(page, "FILES", &files(command));
    page.control("SH", ["SEE ALSO"]);
    let pages = match is_program {
        true => names_of(program).collect(),
        false => vec!["tidegate".to_owned()],
    };
    let mut references: Vec<Inline> = Vec::new();
    for name in pages {
        let separator = if references.is_empty() { "" } else { ", " };
        references.extend([roman(separator), bold(name), roman("(1)")]);
    }
    page.text(references);
    page.text([roman(
        "The documentation is in /usr/share/doc/tidegate/docs.",
    )]);
}

/// The names of the pages of all commands.
fn names_of(program: &Command) -> impl Iterator<Item = String> {
    let commands = program.get_subcommands();
    commands.map(|command| format!("tidegate-{}", command.get_name()))
}

fn terms(page: &mut Roff, heading: &str, terms: &[(&str, &str)]) {
    if terms.is_empty() {
        return;
    }
    page.control("SH", [heading]);
    for (term, meaning) in terms {
        page.control("TP", []);
        page.text([bold(*term)]);
        page.text([roman(*meaning)]);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    /// The words of an example as a shell passes them, without a redirection.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" > ").next().unwrap_or_default();
        let mut words = vec![String::new()];
        for (index, part) in line.split('\'').enumerate() {
            for (nth, piece) in part.split(|char| char == ' ' && index % 2 == 0).enumerate() {
                if nth > 0 {
                    words.push(String::new());
                }
                words.last_mut().unwrap().push_str(piece);
            }
        }
        words
    }

    #[test]
    fn every_command_has_examples_that_it_accepts() {
        let mut program = Cli::command().disable_help_subcommand(true);
        program.build();
        let commands: Vec<_> = program.get_subcommands().map(Command::get_name).collect();
        for name in &commands {
            assert!(!examples(name).is_empty(), "{name}");
        }
        for (of, examples) in EXAMPLES {
            assert!(of.is_empty() || commands.contains(of), "{of}");
            for (line, _) in *examples {
                let parsed = program.clone().try_get_matches_from(words(line));
                let parsed = parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
                assert!(
                    of.is_empty() || parsed.subcommand_name() == Some(of),
                    "{line}"
                );
            }
        }
    }
}
