//! Values of options, and what is wrong with them in the words of a user.

use std::net::IpAddr;
use std::time::Duration;

use tidegate::admin::api::close::RATES;

/// The least time between two looks.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// A whole number.
pub(super) fn whole<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let number: u64 = text.parse().map_err(|_| "use a whole number")?;
    T::try_from(number).map_err(|_| "this number is too large".to_owned())
}

/// Tunnels per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| RATES.contains(rate));
    rate.ok_or_else(|| format!("use a number from {} to {}", RATES.start(), RATES.end()))
}

/// The time between two looks at something.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok();
    let time = time.filter(|time| *time >= LEAST_INTERVAL);
    time.ok_or_else(|| "use a time of at least 100ms, e.g. `2s`".to_owned())
}

/// An IP address.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| "use an IP address, e.g. `203.0.113.7`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_explained_without_rust() {
        let wrong = |text: &str| Err(text.to_owned());
        assert_eq!(whole::<u16>("1012"), Ok(1012));
        assert_eq!(whole::<u16>("x"), wrong("use a whole number"));
        assert_eq!(whole::<u16>("-1"), wrong("use a whole number"));
        assert_eq!(whole::<u16>("65536"), wrong("this number is too large"));
        assert_eq!(rate("0.5"), Ok(0.5));
        // A rate that is not a number once meant no rate: all tunnels were closed at once.
        for text in ["nan", "0", "-3", "x", "inf"] {
            assert_eq!(
                rate(text),
                Err("use a number from 0.1 to 1000000".to_owned()),
                "{text}"
            );
        }
        assert_eq!(interval("2s"), Ok(Duration::from_secs(2)));
        assert!(interval("0s").is_err() && interval("x").is_err());
        let expected = "use an IP address, e.g. `203.0.113.7`";
        assert_eq!(address("x"), Err(expected.to_owned()));
    }
}
