//! Metrics, read as Prometheus does.

use std::collections::BTreeSet;

use super::proxy::Proxy;
use super::wire::{Head, Wire};
use super::within;

/// Configures metrics on any free port.
pub(crate) const METRICS: &str = "[admin]\nmetrics_bind = \"127.0.0.1:0\"\n";

/// The response of `/metrics`.
pub(crate) struct Scrape(pub(crate) String);

impl Scrape {
    pub(crate) async fn of(proxy: &Proxy) -> Self {
        let (head, body) = get(proxy, "/metrics", "").await;
        assert_eq!(head.status(), 200, "{body}");
        Self(body)
    }

    /// Scrapes until the sum of these samples is `value`.
    pub(crate) async fn until(proxy: &Proxy, name: &str, labels: &[&str], value: f64) -> Self {
        within(&format!("{name} {labels:?} to be {value}"), async {
            loop {
                let scrape = Self::of(proxy).await;
                if scrape.sum(name, labels) == value {
                    return scrape;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    /// The sum of all samples with this name and these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.samples(name, labels).sum()
    }

    fn samples<'a>(&'a self, name: &'a str, labels: &'a [&str]) -> impl Iterator<Item = f64> + 'a {
        let samples = self.0.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(move |line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (known, had) = series.split_once('{').unwrap_or((series, ""));
            let fits = known == name && labels.iter().all(|label| had.contains(label));
            fits.then(|| value.parse().unwrap())
        })
    }

    /// The names of all metric families.
    pub(crate) fn families(&self) -> BTreeSet<&str> {
        let types = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "));
        types.filter_map(|line| line.split(' ').next()).collect()
    }
}

/// Requests `path` from the metrics address.
pub(crate) async fn get(proxy: &Proxy, path: &str, fields: &str) -> (Head, String) {
    let address = proxy.logged("serving metrics").await["address"].clone();
    let mut wire = Wire::connect(address.as_str().unwrap().parse().unwrap()).await;
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
        .await;
    wire.reply().await
}
