//! The algorithms, step by step, against what they are meant to be; and what becomes of limits in an outage.

mod models;
mod models_agree;
mod outages;
pub mod steps;
