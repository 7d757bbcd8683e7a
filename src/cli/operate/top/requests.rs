//! What is asked of the admin interface: a reading each second, lists of tunnels, and changes. Nothing waits for it.

use std::panic;

use tidegate::admin::api::close::CloseResponse;
use tidegate::admin::api::operation::Operation;
use tokio::task::JoinSet;

use super::change::TopChange;
use super::state::{MAX_TUNNELS, TopArrival, TunnelQuery};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::operate::live::listing;
use crate::cli::operate::live::older::OlderReading;
use crate::cli::operate::live::reading::Reading;
use crate::cli::operate::tunnels::query;

/// Requests under way.
pub(super) struct AdminRequests {
    /// For what is asked again and again, which has to be soon.
    reader: AdminClient,
    /// For changes, which may take their time.
    client: AdminClient,
    tasks: JoinSet<TopArrival>,
    reading: bool,
}

impl AdminRequests {
    pub(super) fn new(reader: AdminClient, client: AdminClient) -> Self {
        Self {
            reader,
            client,
            tasks: JoinSet::new(),
            reading: false,
        }
    }

    /// Begins a reading, unless one is under way; `before` is what the latest one knows of each process.
    pub(super) fn read(&mut self, before: Vec<OlderReading>) {
        if self.reading {
            return;
        }
        self.reading = true;
        let client = self.reader.clone();
        self.tasks.spawn(async move {
            let read = Reading::of(&client, &before).await;
            TopArrival::Read(Box::new(read.map_err(|failure| failure.to_string())))
        });
    }

    /// Begins a listing, of older processes as well.
    pub(super) fn list(&mut self, wanted: TunnelQuery, older: Vec<u64>) {
        let client = self.reader.clone();
        self.tasks.spawn(async move {
            let parameters = query(&wanted.filter, &wanted.layout);
            let order = (wanted.sort, MAX_TUNNELS);
            let listed = listing::list(&client, &parameters, order, &older).await;
            let listed = listed.map_err(|failure| failure.to_string());
            TopArrival::Listed(wanted.edition, listed)
        });
    }

    /// Begins a change.
    pub(super) fn change(&mut self, change: TopChange, older_generations: Vec<u64>) {
        let client = self.client.clone();
        self.tasks.spawn(async move {
            let done = perform(&client, &change, older_generations).await;
            TopArrival::Changed(done.map_err(|failure| failure.to_string()))
        });
    }

    /// The next response; none while nothing is under way.
    pub(super) async fn next(&mut self) -> Option<TopArrival> {
        let arrival = match self.tasks.join_next().await? {
            Ok(arrival) => arrival,
            Err(failure) => match failure.try_into_panic() {
                Ok(panic) => panic::resume_unwind(panic),
                Err(_) => return None,
            },
        };
        if matches!(arrival, TopArrival::Read(_)) {
            self.reading = false;
        }
        Some(arrival)
    }
}

/// Makes the change; what was done.
async fn perform(
    client: &AdminClient,
    change: &TopChange,
    older_generations: Vec<u64>,
) -> Result<String, ClientError> {
    if change.is_for_every_generation() && client.generation.is_none() {
        for generation in older_generations {
            let older = client.of_generation(generation);
            // It may have exited, or may not know this endpoint: neither is an error here.
            let _ = older.send(change.operation(), "", change.body()).await;
        }
    }
    let client = match change.generation() {
        Some(generation) => &client.of_generation(generation),
        None => client,
    };
    let body = client.send(change.operation(), "", change.body()).await?;
    if change.operation() == Operation::CloseTunnels {
        let closed: CloseResponse = client.read(&body)?;
        if closed.closed == 0 {
            return Ok("that tunnel had ended already".to_owned());
        }
    }
    Ok(change.done())
}
