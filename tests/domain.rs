//! What the macros make of a domain, asked through the traits that they implement.

#[path = "domain/bank.rs"]
mod bank;
#[path = "domain/commands.rs"]
mod commands;
#[path = "domain/events.rs"]
mod events;
#[path = "domain/projections.rs"]
mod projections;
#[path = "domain/support.rs"]
mod support;
