//! The service an operator runs over a pool of single-use CI runners, and the commands that talk to it.
//!
//! Read in this order: [`config`] (what can be chosen), [`compose`] (which backends there are),
//! [`serve`] (one service from its start to its end), [`http`] (what it answers), [`client`] and
//! [`commands`] (what the command line does with it).

pub mod client;
pub mod commands;
pub mod compose;
pub mod config;
pub mod data_dir;
pub mod doctor;
pub mod guests;
pub mod http;
pub mod import;
pub mod logs;
pub mod metrics;
pub mod open_files;
pub mod opening;
pub mod peers;
pub mod reload;
pub mod remote;
pub mod seal;
pub mod serve;
pub mod shells;
pub mod systemd;
pub mod token;
pub mod tokens;
