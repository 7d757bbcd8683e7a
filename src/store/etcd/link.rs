//! The store in etcd as this process uses it: one client, and one copy of what is there.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::client::EtcdClient;
use super::health::StoreHealth;
use super::mirror::Mirror;
use crate::config::model::EtcdConfig;
use crate::https_client::service_traffic::ServiceTraffic;
use crate::upstream::connect::Connector;

/// The name of etcd among the services that tidegate asks.
pub const SERVICE: &str = "store/etcd";

/// The store in etcd. Cloning it gives another handle of the same.
#[derive(Debug, Clone)]
pub struct EtcdLink {
    /// Asks etcd.
    pub client: Arc<EtcdClient>,
    /// Everything under the prefix, as far as it is known.
    pub mirror: Mirror,
}

impl EtcdLink {
    /// Begins to read the store, on `control`, until the last handle is dropped.
    pub fn start(
        control: &Handle,
        settings: &Arc<EtcdConfig>,
        connector: Connector,
        services: &ServiceTraffic,
    ) -> Self {
        let client = EtcdClient::new(settings, connector, services.of(SERVICE));
        let client = Arc::new(client);
        let mirror = Mirror::start(control, &client, &Arc::new(StoreHealth::default()));
        Self { client, mirror }
    }

    /// How the store is.
    pub fn health(&self) -> &Arc<StoreHealth> {
        self.mirror.health()
    }
}
