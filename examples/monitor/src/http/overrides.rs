//! The policy override: for a while, some profiles have other numbers, and the others give way.

use std::{collections::BTreeMap, time::Duration};

use poem_openapi::{ApiResponse, Object, OpenApi, payload::Json};
use runner_core::{
    ProfileName,
    plan::{Allotment, Held, Step},
    policy::{OverridePreview, OverrideRequest, OverrideStatus},
};
use serde::Deserialize;

use super::{
    Admin, Operate, Shared,
    pool::model::HeldInfo,
    problem::Problem,
    strict::Strict,
    workers::{after, period},
};

/// How long an override may hold.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

pub struct OverridesApi(pub Shared);

/// What to override.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
struct NewOverride {
    /// How many workers each of these profiles is to have.
    #[oai(validator(min_properties = 1))]
    counts: BTreeMap<String, u32>,
    /// How long at most, such as `90m` or `6h`. At most 7 days.
    #[serde(default = "usual_length")]
    #[oai(default = "usual_length")]
    duration: String,
    /// What for.
    #[serde(default)]
    #[oai(default, validator(max_length = 1000))]
    purpose: String,
}

/// A policy override, and what comes of it.
#[derive(Object)]
struct OverrideInfo {
    /// How many workers each of these profiles is to have.
    counts: BTreeMap<String, u32>,
    /// Who asked.
    by: String,
    /// What for.
    purpose: String,
    /// Since when.
    since: String,
    /// Until when, at most.
    until: String,
    /// What each profile gets while it holds.
    allotted: BTreeMap<String, AllotmentInfo>,
    /// The workers that it had so far.
    claimed: Vec<String>,
}

/// How many workers a profile gets.
#[derive(Object)]
struct AllotmentInfo {
    /// Whether the override names the profile.
    requested: bool,
    /// How many it would have if there were room.
    wanted: u32,
    /// How many it gets.
    granted: u32,
    /// How many of its workers are busy or reserved for someone else since before the override. They count
    /// neither as wanted nor as granted.
    beside: u32,
    /// The same in words, with what there is too little of.
    explanation: String,
}

/// What would come of an override. Nothing of it is done.
#[derive(Object)]
struct Preview {
    /// What each profile would get.
    allotted: BTreeMap<String, AllotmentInfo>,
    /// What would be done at once.
    actions: Vec<PlannedInfo>,
    /// What would be wanted and not done, and why.
    held: Vec<HeldInfo>,
}

/// Something that would be done.
#[derive(Object)]
struct PlannedInfo {
    /// What, such as `retire`.
    action: String,
    /// To what.
    subject: String,
    /// Its reason.
    why: String,
}

#[derive(ApiResponse)]
enum Begun {
    /// It holds, durably.
    #[oai(status = 201)]
    Begun(Json<OverrideInfo>),
}

#[derive(ApiResponse)]
enum Ended {
    /// There is none.
    #[oai(status = 204)]
    Ended,
}

#[OpenApi]
impl OverridesApi {
    /// Show the policy override
    #[oai(path = "/override", method = "get", operation_id = "show_override")]
    async fn show(&self) -> Result<Json<OverrideInfo>, Problem> {
        let status = self.0.status();
        let policy = status.policy.as_ref();
        policy.map(|policy| Json(policy.into())).ok_or_else(|| {
            Problem::not_found("nothing overrides the policy: profiles have their own numbers")
        })
    }

    /// Override the policy
    ///
    /// The profiles that are named get as many workers as is said, those that work for others not counted; the
    /// other profiles give way, but no worker that is busy or reserved does. There is one override at a time. It
    /// ends at its time, or when all its workers were there and are gone.
    #[oai(path = "/override", method = "post", operation_id = "begin_override")]
    async fn begin(&self, by: Admin, wish: Json<Strict<NewOverride>>) -> Result<Begun, Problem> {
        let request = wish.0.0.request(by.name().as_str())?;
        let status = self.0.0.pool.override_policy(request).await?;
        Ok(Begun::Begun(Json((&status).into())))
    }

    /// Tell what would come of an override
    ///
    /// By the plan that would be carried out; nothing is done.
    #[oai(path = "/override/preview", method = "post", operation_id = "preview_override")]
    async fn preview(
        &self,
        by: Operate,
        wish: Json<Strict<NewOverride>>,
    ) -> Result<Json<Preview>, Problem> {
        let request = wish.0.0.request(by.name().as_str())?;
        let preview = self.0.0.pool.preview_override(request).await?;
        Ok(Json((&preview).into()))
    }

    /// End the policy override
    ///
    /// Fine when there is none.
    #[oai(path = "/override", method = "delete", operation_id = "end_override")]
    async fn end(&self, by: Admin) -> Result<Ended, Problem> {
        self.0.0.pool.end_override(by.name().as_str()).await?;
        Ok(Ended::Ended)
    }
}

impl NewOverride {
    fn request(self, by: &str) -> Result<OverrideRequest, Problem> {
        let time = period("duration", &self.duration, LONGEST)?;
        let named = |(name, count): (String, u32)| match ProfileName::new(&name) {
            Ok(name) => Ok((name, count)),
            Err(_) => Err(Problem::not_found(format!("profile {name:?} does not exist"))),
        };
        let counts = self.counts.into_iter().map(named).collect::<Result<_, _>>()?;
        let (by, purpose) = (by.to_owned(), self.purpose);
        Ok(OverrideRequest { counts, by, purpose, until: after(time) })
    }
}

fn usual_length() -> String {
    format!("{}h", runner_core::policy::USUAL_LENGTH.as_secs() / 3600)
}

fn allotted(all: &BTreeMap<ProfileName, Allotment>) -> BTreeMap<String, AllotmentInfo> {
    let info = |allotment: &Allotment| AllotmentInfo {
        requested: allotment.requested,
        wanted: allotment.wanted,
        granted: allotment.granted,
        beside: allotment.beside,
        explanation: allotment.to_string(),
    };
    all.iter().map(|(name, allotment)| (name.to_string(), info(allotment))).collect()
}

impl From<&OverrideStatus> for OverrideInfo {
    fn from(status: &OverrideStatus) -> Self {
        let policy = &status.policy;
        let counts = policy.counts.iter();
        Self {
            counts: counts.map(|(name, count)| (name.to_string(), *count)).collect(),
            by: policy.by.clone(),
            purpose: policy.purpose.clone(),
            since: policy.since.to_string(),
            until: policy.until.to_string(),
            allotted: allotted(&status.allotted),
            claimed: policy.claimed.values().flatten().map(ToString::to_string).collect(),
        }
    }
}

impl From<&OverridePreview> for Preview {
    fn from(preview: &OverridePreview) -> Self {
        // What runs beside a worker or marks it is no matter of the policy.
        let matters = preview.actions.iter().filter(|action| {
            matches!(action.step, Step::Provision { .. } | Step::Retire { .. } | Step::Build { .. })
        });
        let planned = matters.map(|action| PlannedInfo {
            action: action.step.word().to_owned(),
            subject: action.step.subject().to_string(),
            why: action.why.to_string(),
        });
        Self {
            allotted: allotted(&preview.status.allotted),
            actions: planned.collect(),
            held: preview.held.iter().map(|held: &Held| held.into()).collect(),
        }
    }
}
