//! What a provider answers: JSON,
//! `{"ttl": 30, "regions": {"eu": ["203.0.113.7:443"]}}`.

use std::collections::BTreeMap;

use sluice_sdk::prelude::*;

use crate::config::is_address;

/// Addresses by region, the preferred first.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    /// Seconds it holds.
    pub(crate) ttl: u32,
    pub(crate) regions: BTreeMap<String, Vec<String>>,
}

/// The most addresses a provider may give for one region.
const POINTS_MAX: usize = 64;

impl Answer {
    /// Reads an answer; one that is wrong anywhere is not used at all.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let answer: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if answer.ttl == 0 {
            return Err("ttl: 0: at least one second".to_owned());
        }
        for (region, points) in &answer.regions {
            if points.len() > POINTS_MAX {
                return Err(format!("regions.{region}: {} addresses, at most {POINTS_MAX}", points.len()));
            }
            if let Some(bad) = points.iter().find(|point| !is_address(point)) {
                return Err(format!("regions.{region}: {bad:?}: not HOST:PORT"));
            }
        }
        Ok(answer)
    }
}
