//! A scenario that ends in a rejection, and short ways to write one.

use crate::harness::wire::{HANDSHAKE, SWITCH};

/// A scenario that ends in a rejection.
#[derive(Default)]
pub(super) struct Scene {
    /// Lines of the configuration.
    pub(super) server: &'static str,
    pub(super) listener: &'static str,
    pub(super) route: &'static str,
    pub(super) upstream: &'static str,
    pub(super) limit: &'static str,
    /// Requests sent before, which are accepted.
    pub(super) before: Vec<&'static str>,
    pub(super) request: String,
    /// The response of the endpoint; `None` if it does not respond.
    pub(super) answer: Option<&'static str>,
}

pub(super) fn asks(request: impl Into<String>) -> Scene {
    Scene {
        request: request.into(),
        ..Scene::default()
    }
}

pub(super) fn of_server(server: &'static str, request: &str) -> Scene {
    Scene {
        server,
        ..asks(request)
    }
}

pub(super) fn of_route(route: &'static str, request: &str) -> Scene {
    Scene {
        route,
        ..asks(request)
    }
}

pub(super) fn of_listener(listener: &'static str, request: &str) -> Scene {
    Scene {
        listener,
        ..asks(request)
    }
}

pub(super) fn of_upstream(upstream: &'static str, request: &str) -> Scene {
    Scene {
        upstream,
        ..asks(request)
    }
}

/// A route that shares a limit with these settings.
pub(super) fn sharing(limit: &'static str, request: &str) -> Scene {
    Scene {
        limit,
        ..of_route("limits.shared = [\"each\"]", request)
    }
}

pub(super) fn answered(request: &str, answer: &'static str) -> Scene {
    Scene {
        answer: Some(answer),
        ..asks(request)
    }
}

/// The scenario after one accepted handshake.
pub(super) fn second(scene: Scene) -> Scene {
    Scene {
        before: vec![HANDSHAKE],
        answer: Some(SWITCH),
        ..scene
    }
}
