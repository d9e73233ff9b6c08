//! Which forge serves which profile, and what a profile says that only one kind of forge has.

use std::{ops::Range, path::Path};

use runner_core::{
    Profile,
    image::{RecipeKind, UserDataDelivery},
};

use super::{ConfigError, access::Access, github, gitlab, local_forge, place::Source};

/// The forges elsewhere, while profiles are read.
pub(super) struct Forges {
    pub githubs: Vec<github::Place>,
    /// Whether machines may tell this service what they run.
    pub machines_are_heard: bool,
    pub gitlabs: Vec<gitlab::Place>,
}

/// What a profile says of its forge.
pub(super) struct Said {
    pub github: github::OfGithub,
    pub gitlab: gitlab::OfGitlab,
    pub access: Access,
}

impl Forges {
    /// Has the forge of a profile serve it. The profile is at `key`, with its head at `span`.
    pub fn serve(
        &mut self,
        source: &Source<'_>,
        base: &Path,
        (key, span): (&str, Range<usize>),
        profile: &Profile,
        said: Said,
    ) -> Result<(), ConfigError> {
        let wrong = |field: &str, problem: String| {
            let place = source.key_in(&span, field);
            Err(source.problem(Some(place), format!("{key}.{field}"), problem))
        };
        let only = |whose: &str, field: Option<&'static str>| match field {
            Some(field) => {
                wrong(field, format!("only a profile of a {whose} has it; name that as its forge"))
            }
            None => Ok(()),
        };
        let (of_github, of_gitlab) = (said.github.first_key(), said.gitlab.first_key());
        let forge = &profile.forge;
        if *forge == local_forge() {
            only("[[github]]", of_github)?;
            only("[[gitlab]]", of_gitlab)?;
            return only("[[gitlab]]", said.access.first_key());
        }
        if let Some(place) = self.githubs.iter_mut().find(|place| place.config.name == *forge) {
            only("[[gitlab]]", of_gitlab)?;
            let key_of_access = said.access.first_key();
            let access = said.access.rules(source, key)?;
            if !(access.is_empty() && place.config.access.is_empty()) {
                let field = key_of_access.unwrap_or("forge");
                if let Some(problem) = unjudged(profile, self.machines_are_heard) {
                    return wrong(field, problem.to_owned());
                }
            }
            let served = place.serve(&profile.name, said.github, access);
            return served.or_else(|(field, problem)| wrong(field, problem));
        }
        let Some(place) = self.gitlabs.iter_mut().find(|place| place.config.name == *forge) else {
            let problem = format!(
                "there is no forge {forge}; leave it out for the local queue, or name one of [[github]] or \
                 [[gitlab]]"
            );
            return wrong("forge", problem);
        };
        only("[[github]]", of_github)?;
        let access = said.access.rules(source, key)?;
        match place.serve(source, base, key, profile, said.gitlab, access) {
            Ok(()) => Ok(()),
            Err(gitlab::Wrong::Field(field, problem)) => wrong(field, problem),
            Err(gitlab::Wrong::Placed(error)) => Err(error),
        }
    }
}

/// Why nobody would keep to the rules of a profile of a GitHub, whose machines ask before their jobs begin.
fn unjudged(profile: &Profile, machines_are_heard: bool) -> Option<&'static str> {
    match &profile.recipe.kind {
        _ if !machines_are_heard => Some(
            "nobody would keep to its rules: machines ask before a job begins, at the address of [guests]; set that",
        ),
        RecipeKind::Disk { user_data: UserDataDelivery::None, .. } => Some(
            "nobody would keep to its rules: its image is not told whom to ask; set user_data = \"nocloud\" there",
        ),
        _ => None,
    }
}
