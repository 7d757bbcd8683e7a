//! A small HTTPS client for the services that tidegate itself asks.
