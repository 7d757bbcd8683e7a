//! Every operation of the interface: its method and path, what it takes and gives. Requests are
//! dispatched by this table, and the description of the interface is made from it.

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::{close, endpoints, explain, listeners, reload, status, tunnels, upgrade, upstreams};
use crate::admin::command::ReloadResponse;
use crate::admin::error::ErrorResponse;
use crate::admin::plan::ReloadPlan;
use crate::displace::filter::TunnelFilter;
use crate::handover::identity::Identity;

/// The parameter that any of them takes.
pub const GENERATION: &str = "generation";

macro_rules! operations {
    ($( $(#[doc = $doc:literal])+ $name:ident = $method:ident $path:literal, $token:literal; )+) => {
        /// What can be asked for.
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

            /// Whether over TCP it needs the token: it changes something, or costs much.
            pub fn needs_token(self) -> bool {
                match self { $(Self::$name => $token,)+ }
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
    /// How the process is.
    Status = GET "/v1/status", false;
    /// The configuration in force, secrets left out.
    Config = GET "/v1/config", false;
    /// Listeners, and what came by them.
    Listeners = GET "/v1/listeners", false;
    /// Takes a listener out: it listens no more, its tunnels stay. Reloads keep that.
    DrainListener = POST "/v1/listeners/drain", true;
    /// Puts it back.
    UndrainListener = POST "/v1/listeners/undrain", true;
    /// Upstreams and their endpoints: who takes something new, and if not, why.
    Upstreams = GET "/v1/upstreams", false;
    /// Live tunnels, filtered, sorted, paged.
    Tunnels = GET "/v1/tunnels", false;
    /// Closes tunnels by filter, at once or at a pace; or counts them.
    CloseTunnels = POST "/v1/tunnels/close", true;
    /// Stops a job that closes tunnels at a pace: what is closed is closed, the rest stays.
    StopClosing = POST "/v1/tunnels/close/stop", true;
    /// Takes an endpoint out: it gets nothing new, its tunnels stay. Reloads keep that.
    DrainEndpoint = POST "/v1/endpoints/drain", true;
    /// Puts it back.
    UndrainEndpoint = POST "/v1/endpoints/undrain", true;
    /// Weighs an endpoint until the next reload.
    WeighEndpoint = POST "/v1/endpoints/weight", true;
    /// What a reload would change, and how many live tunnels that is about. Reads all files again.
    PlanReload = GET "/v1/reload/plan", true;
    /// Reloads the configuration, unless that would displace too many tunnels.
    Reload = POST "/v1/reload", true;
    /// Hands over to a new process: live tunnels stay with this one, which drains. Tells which serves now.
    Upgrade = POST "/v1/upgrade", true;
    /// What would become of a request. Nothing is sent anywhere.
    Explain = POST "/v1/explain", false;
    /// This description (OpenAPI).
    Describe = GET "/v1/openapi.json", false;
}

impl Operation {
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
            Self::CloseTunnels => of::<close::CloseRequest>(schemas),
            Self::StopClosing => of::<close::StopJobRequest>(schemas),
            Self::DrainListener | Self::UndrainListener => {
                of::<listeners::ListenerRequest>(schemas)
            }
            Self::DrainEndpoint | Self::UndrainEndpoint => {
                of::<endpoints::EndpointRequest>(schemas)
            }
            Self::WeighEndpoint => of::<endpoints::WeightRequest>(schemas),
            Self::Reload => of::<reload::ReloadRequest>(schemas),
            Self::Upgrade => of::<upgrade::UpgradeRequest>(schemas),
            Self::Explain => of::<explain::ExplainRequest>(schemas),
            _ => return None,
        })
    }

    fn response_schema(self, schemas: &mut SchemaGenerator) -> Schema {
        match self {
            Self::Status => of::<status::StatusInfo>(schemas),
            Self::Config => of::<reload::ConfigInfo>(schemas),
            Self::Listeners => of::<Vec<listeners::ListenerInfo>>(schemas),
            Self::DrainListener | Self::UndrainListener => of::<listeners::ListenerInfo>(schemas),
            Self::Upstreams => of::<Vec<upstreams::UpstreamInfo>>(schemas),
            Self::Tunnels => of::<tunnels::ListTunnelsResponse>(schemas),
            Self::CloseTunnels => of::<close::CloseResponse>(schemas),
            Self::StopClosing => of::<status::JobInfo>(schemas),
            Self::DrainEndpoint | Self::UndrainEndpoint | Self::WeighEndpoint => {
                of::<endpoints::EndpointChangeResponse>(schemas)
            }
            Self::PlanReload => of::<ReloadPlan>(schemas),
            Self::Reload => of::<ReloadResponse>(schemas),
            Self::Upgrade => of::<Identity>(schemas),
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
                "200": { "description": "done", "content": body(&gives) },
                "default": { "description": "not done, and why", "content": body(&refusal) },
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
            "description": "The generation that is asked, as the status lists them: this one if nothing is said.",
            "schema": { "type": "integer", "minimum": 1 },
        }));
        described["parameters"] = Value::Array(parameters);
        if self.needs_token() {
            described["security"] = json!([{ "token": [] }, {}]);
        }
        described
    }
}

/// The filter's parts and the layout's, as parameters of a query.
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
            "description": "How operators look into a running tidegate, and steer it. Served on \
                `admin.bind`: over a unix socket to whoever may write to it; over TCP under the IP \
                address or `localhost` only, and what changes something needs the token of \
                `admin.token_file`.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}
