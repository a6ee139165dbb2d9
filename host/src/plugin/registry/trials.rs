//! Versions that are tried beside the one that serves.

use std::sync::Arc;

use serde_json::Value;

use super::{Gap, Modules};
use crate::config::Id;
use crate::config::objects::{Module, ModuleCanary, ModuleVersion};
use crate::plugin::component::Interface;
use crate::plugin::module::Plugin;
use crate::plugin::trial::{Trial, TrialEnd, TrialRecord};

/// A trial that ended by itself.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The module.
    pub id: Id,
    /// The version that was tried.
    pub version: String,
    /// Why and when.
    pub end: TrialEnd,
}

/// A trial as the registry keeps it.
pub(super) struct Tried {
    pub(super) record: Arc<TrialRecord>,
    /// Whether the object has said since that it is taken back.
    is_acknowledged: bool,
    /// Whether its end was told.
    is_told: bool,
}

impl Modules {
    /// Gives nobody a version any more that is not to be tried, at once: chains that
    /// have it may stay as they are, where what they need cannot be had.
    pub(super) fn pause_trial(&self, object: &Module) {
        let Some(tried) = self.trials.get(&object.id) else { return };
        let canary = object.canary.as_ref().filter(|canary| tried.record.is_named(&canary.version));
        let version = canary
            .and_then(|canary| object.versions.iter().find(|version| version.version == canary.version));
        let why = match (canary, version) {
            (Some(canary), Some(version)) => {
                let fault = || self.trust.judge(object, version).err();
                let fault = || fault().map(|fault| format!("version {} {fault}", version.version));
                self.hindrance(canary).map(str::to_owned).or_else(fault)
            }
            // It is promoted: who has it keeps it.
            _ if object.serving().is_some_and(|serving| tried.record.is_named(&serving.version)) => None,
            _ => Some("is not tried any more".to_owned()),
        };
        if why.is_some() {
            tried.record.set_gap(why);
        }
    }

    /// Why a version is not tried here, by what the object says.
    fn hindrance(&self, canary: &ModuleCanary) -> Option<&'static str> {
        match canary.rolled_back {
            Some(_) => Some("is taken back"),
            None if !self.is_place_of(canary) => Some("is tried elsewhere"),
            None => None,
        }
    }

    /// The version that is to be tried on this node, if there is one and it can be.
    pub(super) fn find_trial(
        &mut self,
        object: &Module,
        overlay: &Value,
        current: &Plugin,
    ) -> Option<Arc<Trial>> {
        let Some(canary) = &object.canary else {
            self.pause_trial(object);
            self.trials.remove(&object.id);
            return None;
        };
        let version = object.versions.iter().find(|version| version.version == canary.version)?;
        let record = self.record_of(object, version);
        if let Some(why) = self.hindrance(canary) {
            record.set_gap(Some(why.to_owned()));
            return None;
        }
        if record.is_over() {
            return None;
        }
        let (trial, gap) = match self.find_version(object, version, overlay) {
            Ok((plugin, _)) if is_filter(current) && is_filter(&plugin) => {
                (Some(Arc::new(Trial::new(plugin, Arc::clone(&record), canary))), None)
            }
            Ok(_) => {
                let why =
                    "only filters are tried on a part: functions and transcoders change for all at once";
                (None, Some(why.to_owned()))
            }
            Err(Gap::Preparing) => (None, Some("is being prepared".to_owned())),
            Err(Gap::Refused(why)) => (None, Some(why)),
        };
        record.set_gap(gap);
        trial
    }

    /// What is counted of the version that is tried: anew for another version,
    /// other thresholds, or when it is tried again after it was taken back.
    fn record_of(&mut self, object: &Module, version: &ModuleVersion) -> Arc<TrialRecord> {
        let is_back = object.canary.as_ref().is_some_and(|canary| canary.rolled_back.is_some());
        if let Some(tried) = self.trials.get_mut(&object.id) {
            let is_again = tried.is_acknowledged && !is_back;
            if tried.record.is_of(version, &object.rollback) && !is_again {
                tried.is_acknowledged = is_back;
                return Arc::clone(&tried.record);
            }
            tried.record.set_gap(Some("is not tried any more".to_owned()));
        }
        let tell = self.tell_ended.clone();
        let record = TrialRecord::new(object.id.clone(), version, object.rollback.clone(), tell);
        let record = Arc::new(record);
        let tried = Tried { record: Arc::clone(&record), is_acknowledged: is_back, is_told: false };
        self.trials.insert(object.id.clone(), tried);
        record
    }

    /// Whether a version is tried on this node, by its id and region.
    #[must_use]
    pub fn is_place_of(&self, canary: &ModuleCanary) -> bool {
        canary.is_at(&self.place.0, &self.place.1)
    }

    /// What is counted of the version of a module that is tried.
    #[must_use]
    pub fn trial(&self, id: &Id) -> Option<Arc<TrialRecord>> {
        self.trials.get(id).map(|tried| Arc::clone(&tried.record))
    }

    /// Trials that ended by themselves since this was asked last.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        let mut all = Vec::new();
        for (id, tried) in self.trials.iter_mut().filter(|(_, tried)| !tried.is_told) {
            if let Some(end) = tried.record.end() {
                tried.is_told = true;
                let version = tried.record.shown().version.to_string();
                all.push(Ended { id: id.clone(), version, end: end.clone() });
            }
        }
        all
    }
}

/// Whether a part of the traffic can have another version of it.
fn is_filter(plugin: &Plugin) -> bool {
    plugin.function().is_none() && !plugin.component().has(Interface::Transcoder)
}
