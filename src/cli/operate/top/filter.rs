//! Which tunnels are meant by the words of a filter: `upstream=chat older=10m`.

use std::fmt::Display;
use std::str::FromStr;

use tidegate::displace::tunnel_filter::TunnelFilter;

/// What a filter may consist of, for messages and the help.
pub(super) const WORDS: &str = "ID, CLIENT, or client= endpoint= upstream= route= listener= host= subject= \
                                older=10m idle=30s";

/// The filter that these words describe: those with `=`, an id, or an address or network of clients.
///
/// # Errors
/// What is wrong with a word.
pub(super) fn parse(text: &str) -> Result<TunnelFilter, String> {
    let mut filter = TunnelFilter::default();
    for word in text.split_whitespace() {
        let Some((name, value)) = word.split_once('=') else {
            match word.parse() {
                Ok(id) => filter.id = Some(id),
                Err(_) => filter.client = Some(parsed(word).map_err(|_| unknown(word))?),
            }
            continue;
        };
        let named = || Some(value.to_owned());
        match name {
            "client" => filter.client = Some(parsed(value)?),
            "endpoint" => filter.endpoint = named(),
            "upstream" => filter.upstream = named(),
            "route" => filter.route = named(),
            "listener" => filter.listener = named(),
            "host" => filter.host = named(),
            "subject" => filter.subject = named(),
            "older" => filter.older_than = Some(parsed(value)?),
            "idle" => filter.idle_for = Some(parsed(value)?),
            _ => return Err(unknown(word)),
        }
    }
    Ok(filter)
}

fn parsed<T: FromStr<Err: Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}

fn unknown(word: &str) -> String {
    format!("`{word}` is not a filter; use {WORDS}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_select_tunnels() {
        assert!(parse("").unwrap().is_everything());
        let filter = parse("upstream=chat 10.0.0.0/8 older=10m").unwrap();
        assert_eq!(filter.upstream.as_deref(), Some("chat"));
        assert_eq!(filter.client.unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(filter.older_than.unwrap().0.as_secs(), 600);
        let filter = parse("00000000000000ff").unwrap();
        assert_eq!(filter.id.unwrap().0, 255);
        assert!(parse("ten").unwrap_err().starts_with("`ten` is not"));
        assert!(parse("colour=red").unwrap_err().contains("colour=red"));
        assert!(parse("older=soon").is_err());
    }
}
