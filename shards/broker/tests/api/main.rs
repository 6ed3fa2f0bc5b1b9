//! The broker over the wire: encoded requests go in, a scripted owner of all groups answers, encoded responses come out.

mod admin;
mod configs;
mod connections;
mod every_version;
mod fetch;
mod groups;
mod metadata;
mod moves;
mod produce;
mod topics;
mod world;
