//! Every operation of the interface: its method and path, its request and response. Requests are
//! dispatched by this table, and the OpenAPI description is made from it.

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::{
    certificates, close, credentials, endpoints, explain, fleet, limits, listeners, reload, status,
    traffic, tunnels, upgrade, upstreams,
};
use crate::admin::closing::JobInfo;
use crate::admin::command::ReloadResponse;
use crate::admin::error::ErrorResponse;
use crate::admin::reload_plan::ReloadPlan;
use crate::config::model::AdminRole;
use crate::displace::tunnel_filter::TunnelFilter;
use crate::handover::identity::Identity;
use crate::quota::shared::{LimitCounts, OlderToReplace, ReplaceResponse};

/// The query parameter that every operation accepts.
pub const GENERATION: &str = "generation";

macro_rules! operations {
    ($( $(#[doc = $doc:literal])+ $name:ident = $method:ident $path:literal, $role:ident; )+) => {
        /// An operation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Operation {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl Operation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its method.
            pub fn method(self) -> Method {
                match self { $(Self::$name => Method::$method,)+ }
            }

            /// Its path.
            pub fn path(self) -> &'static str {
                match self { $(Self::$name => $path,)+ }
            }

            /// The role that it requires: `Read` if it changes nothing, `Revoke` if it decides about what
            /// clients were granted, otherwise `Steer`.
            pub fn role(self) -> AdminRole {
                match self { $(Self::$name => AdminRole::$role,)+ }
            }

            /// What it does.
            pub fn summary(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

operations! {
    /// The status of the process.
    Status = GET "/v1/status", Read;
    /// The running configuration, without secrets.
    Config = GET "/v1/config", Read;
    /// The fleet that this node is one of: its members, and the store that they share.
    Fleet = GET "/v1/fleet", Read;
    /// Listeners, their connections, tunnels and rejections.
    Listeners = GET "/v1/listeners", Read;
    /// Drains a listener: it accepts no new connections, and its tunnels stay open. Reloads keep it drained.
    DrainListener = POST "/v1/listeners/drain", Steer;
    /// Puts a drained listener back into service.
    UndrainListener = POST "/v1/listeners/undrain", Steer;
    /// Upstreams and their endpoints: which are in rotation, and why any is not.
    Upstreams = GET "/v1/upstreams", Read;
    /// Handshakes, and what tunnels carry from each listener by each route to each endpoint, as counts.
    Traffic = GET "/v1/traffic", Read;
    /// Limits that routes share, and the keys with the most tunnels.
    Limits = GET "/v1/limits", Read;
    /// The tunnels of each key, by its hash. Newer generations add them to their own.
    LimitCounts = GET "/v1/limits/counts", Read;
    /// Closes the oldest tunnels of a key. Newer generations do so when they have newer ones.
    ReplaceTunnels = POST "/v1/limits/replace", Steer;
    /// Live tunnels, filtered, sorted and paged.
    Tunnels = GET "/v1/tunnels", Read;
    /// Closes the tunnels that match a filter, at once or at a pace; or only counts them.
    CloseTunnels = POST "/v1/tunnels/close", Steer;
    /// Stops a job that closes tunnels at a pace; tunnels that it has not closed yet stay open.
    StopClosing = POST "/v1/tunnels/close/stop", Steer;
    /// Ends the tunnels of a subject, and refuses its credentials that were issued until now.
    Revoke = POST "/v1/revoke", Revoke;
    /// Moves the time at which the credential of a tunnel expires, and with it the tunnel's end.
    ExtendTunnel = POST "/v1/tunnels/extend", Revoke;
    /// Drains an endpoint: it gets no new sessions, and its tunnels stay open. Reloads keep it drained.
    DrainEndpoint = POST "/v1/endpoints/drain", Steer;
    /// Puts a drained endpoint back into service.
    UndrainEndpoint = POST "/v1/endpoints/undrain", Steer;
    /// Sets the weight of an endpoint until the next reload.
    WeighEndpoint = POST "/v1/endpoints/weight", Steer;
    /// Certificates of listeners and of the admin interface: names, until when they are valid, when they are renewed.
    Certificates = GET "/v1/certificates", Read;
    /// Renews a certificate that tidegate obtains by itself, whether that is due or not.
    RenewCertificate = POST "/v1/certificates/renew", Steer;
    /// Orders a certificate from the staging directory of its authority. It is neither stored nor served.
    TryCertificate = POST "/v1/certificates/try", Steer;
    /// What a reload would change, and how many live tunnels each change affects. Reads all files again.
    PlanReload = GET "/v1/reload/plan", Read;
    /// Reloads the configuration, unless that would displace too many tunnels.
    Reload = POST "/v1/reload", Steer;
    /// Hands over to a new process; live tunnels stay with this one, which drains. Returns the new process.
    Upgrade = POST "/v1/upgrade", Steer;
    /// Explains what would happen to a request. Nothing is sent anywhere.
    Explain = POST "/v1/explain", Read;
    /// This description (OpenAPI).
    Describe = GET "/v1/openapi.json", Read;
}

impl Operation {
    /// Whether it changes something. Each request for such an operation has a line in the log.
    pub fn changes(self) -> bool {
        self.role() != AdminRole::Read
    }

    /// Whether it requires a token over TCP although reading does not: it costs more than a look.
    pub fn is_expensive(self) -> bool {
        matches!(self, Self::PlanReload)
    }

    /// Whether it is for newer generations, and no token allows it: it lists up to a million keys, or closes
    /// tunnels that only a newer generation knows to be replaced.
    pub fn is_internal(self) -> bool {
        matches!(self, Self::LimitCounts | Self::ReplaceTunnels)
    }

    /// How many things it has changed, by its response: tunnels for those that close them, otherwise endpoints,
    /// listeners or certificates.
    pub fn affected(self, response: &Value) -> Option<u64> {
        let count = |pointer: &str| response.pointer(pointer).and_then(Value::as_u64);
        match self {
            Self::CloseTunnels => count("/job/tunnels").or(count("/closed")),
            Self::Revoke => count("/closed"),
            Self::ExtendTunnel => Some(1),
            Self::StopClosing => Some(count("/tunnels")?.saturating_sub(count("/done")?)),
            Self::DrainListener
            | Self::UndrainListener
            | Self::DrainEndpoint
            | Self::UndrainEndpoint
            | Self::WeighEndpoint => Some(1),
            Self::RenewCertificate => count("/certificates"),
            _ => None,
        }
    }

    /// The parameters of its query.
    pub fn parameters(self) -> Vec<&'static str> {
        match self {
            Self::Tunnels => [
                &TunnelFilter::NAMES[..],
                &tunnels::ListTunnelsRequest::NAMES,
            ]
            .concat(),
            _ => Vec::new(),
        }
    }

    fn request_schema(self, schemas: &mut SchemaGenerator) -> Option<Schema> {
        Some(match self {
            Self::ReplaceTunnels => of::<OlderToReplace>(schemas),
            Self::CloseTunnels => of::<close::CloseRequest>(schemas),
            Self::StopClosing => of::<close::StopJobRequest>(schemas),
            Self::Revoke => of::<credentials::RevokeRequest>(schemas),
            Self::ExtendTunnel => of::<credentials::ExtendRequest>(schemas),
            Self::DrainListener | Self::UndrainListener => {
                of::<listeners::ListenerRequest>(schemas)
            }
            Self::DrainEndpoint | Self::UndrainEndpoint => {
                of::<endpoints::EndpointRequest>(schemas)
            }
            Self::WeighEndpoint => of::<endpoints::WeightRequest>(schemas),
            Self::Reload => of::<reload::ReloadRequest>(schemas),
            Self::Upgrade => of::<upgrade::UpgradeRequest>(schemas),
            Self::RenewCertificate | Self::TryCertificate => {
                of::<certificates::OrderRequest>(schemas)
            }
            Self::Explain => of::<explain::ExplainRequest>(schemas),
            _ => return None,
        })
    }

    fn response_schema(self, schemas: &mut SchemaGenerator) -> Schema {
        match self {
            Self::Status => of::<status::StatusInfo>(schemas),
            Self::Config => of::<reload::ConfigInfo>(schemas),
            Self::Fleet => of::<fleet::FleetInfo>(schemas),
            Self::Listeners => of::<Vec<listeners::ListenerInfo>>(schemas),
            Self::DrainListener | Self::UndrainListener => of::<listeners::ListenerInfo>(schemas),
            Self::Upstreams => of::<Vec<upstreams::UpstreamInfo>>(schemas),
            Self::Traffic => of::<traffic::TrafficInfo>(schemas),
            Self::Limits => of::<Vec<limits::LimitInfo>>(schemas),
            Self::LimitCounts => of::<Vec<LimitCounts>>(schemas),
            Self::ReplaceTunnels => of::<ReplaceResponse>(schemas),
            Self::Tunnels => of::<tunnels::ListTunnelsResponse>(schemas),
            Self::CloseTunnels => of::<close::CloseResponse>(schemas),
            Self::StopClosing => of::<JobInfo>(schemas),
            Self::Revoke => of::<credentials::RevokeResponse>(schemas),
            Self::ExtendTunnel => of::<credentials::ExtendResponse>(schemas),
            Self::DrainEndpoint | Self::UndrainEndpoint | Self::WeighEndpoint => {
                of::<endpoints::EndpointChangeResponse>(schemas)
            }
            Self::PlanReload => of::<ReloadPlan>(schemas),
            Self::Reload => of::<ReloadResponse>(schemas),
            Self::Upgrade => of::<Identity>(schemas),
            Self::Certificates => of::<certificates::CertificatesResponse>(schemas),
            Self::RenewCertificate => of::<certificates::RenewResponse>(schemas),
            Self::TryCertificate => of::<certificates::TrialResponse>(schemas),
            Self::Explain => of::<explain::ExplainResponse>(schemas),
            Self::Describe => of::<Map<String, Value>>(schemas),
        }
    }

    fn described(self, schemas: &mut SchemaGenerator) -> Value {
        let body = |schema: &Value| json!({ "application/json": { "schema": schema } });
        let gives = json!(self.response_schema(schemas));
        let refusal = json!(of::<ErrorResponse>(schemas));
        let mut described = json!({
            "operationId": self.name(),
            "summary": self.summary(),
            "responses": {
                "200": { "description": "success", "content": body(&gives) },
                "default": { "description": "the operation was refused or failed; the body says why", "content": body(&refusal) },
            },
        });
        if let Some(takes) = self.request_schema(schemas) {
            let takes = json!(takes);
            described["requestBody"] = json!({ "required": true, "content": body(&takes) });
        }
        let mut parameters = match self {
            Self::Tunnels => parameters(schemas),
            _ => Vec::new(),
        };
        parameters.push(json!({
            "name": GENERATION,
            "in": "query",
            "description": "Number of the generation to ask, from the list in `/v1/status`; default: the one that serves.",
            "schema": { "type": "integer", "minimum": 1 },
        }));
        described["parameters"] = Value::Array(parameters);
        described["security"] = json!([{ "token": [] }, {}]);
        described["x-role"] = json!(self.role().name());
        described
    }
}

/// The fields of the filter and of the listing's options, as query parameters.
fn parameters(schemas: &mut SchemaGenerator) -> Vec<Value> {
    let mut parameters = Vec::new();
    for schema in [
        TunnelFilter::json_schema(schemas),
        tunnels::ListTunnelsRequest::json_schema(schemas),
    ] {
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            let mut property = property.clone();
            let doc = property
                .as_object_mut()
                .and_then(|it| it.remove("description"));
            parameters.push(json!({
                "name": name,
                "in": "query",
                "description": doc,
                "schema": property,
            }));
        }
    }
    parameters
}

fn of<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Schema {
    schemas.subschema_for::<T>()
}

/// The description of the interface (OpenAPI 3.1).
pub fn openapi() -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut schemas = settings.into_generator();
    let mut paths = Map::new();
    for operation in Operation::ALL {
        let method = operation.method().as_str().to_ascii_lowercase();
        let path = paths.entry(operation.path()).or_insert_with(|| json!({}));
        path[method] = operation.described(&mut schemas);
    }
    let schemas = schemas.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tidegate",
            "version": "1",
            "description": "Inspect and operate a running tidegate. Served on `admin.bind`. Over a unix \
                socket, write permission on the socket grants every operation. Over TCP, each operation \
                requires a token from `admin.tokens` or `admin.token_file`, and without `admin.tls` the host \
                must be an IP address or `localhost`. The role of the token has to allow what `x-role` says: `all` allows everything, and \
                `steer` also what requires `read`. With `admin.read = \"open\"`, what requires `read` \
                requires no token, except the plan of a reload.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}
