//! One life of the manager: a pool, its forge, and what it hears. Dropping it is what `kill -9` is.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use fake_github::{FakeGitHub, Level, Scope};
use forge_github::{
    Client, ClientConfig, Credentials, GithubConfig, GithubForge, GithubProfile, Place,
    ScaleSetListener, SecretFrom, Webhook,
    scale_set::{ActionsService, ListenerConfig, ScaleSetSpec},
    webhook::{
        WebhookConfig,
        recovery::{Hook, Recovery},
    },
};
use http::StatusCode;
use runner_core::{
    Clock, EventLog, Forge, ForgeName, OwnerId, Pace, Pool, PoolParts, Profile, ProfileName,
    Resources, Secret, Store,
    fake::FakeWorld,
    image::{Recipe, RecipeKind},
};
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    OWNER, PROFILE,
    host::Host,
    memory::InMemory,
    notebook::Notebook,
    storm::{Demand, Luck},
};

const WEBHOOK_SECRET: &str = "of-this-hook";

/// How often the log of deliveries is looked through.
const RECOVER_EVERY: Duration = Duration::from_secs(300);

/// All that outlives the manager.
pub struct Outside {
    pub github: Arc<FakeGitHub>,
    pub host: Host,
    pub clock: Clock,
    pub store: Store,
    pub notebook: Notebook,
    pub wire: Arc<InMemory>,
    pub demand: Demand,
    /// How many runners are kept ready.
    min_idle: u32,
    images: FakeWorld,
    app: String,
    key: PathBuf,
    hook: u64,
    ear: Ear,
    _keep: TempDir,
}

/// Who hears deliveries, while anybody lives.
type Ear = Arc<Mutex<Option<Arc<Webhook>>>>;

pub struct Life {
    pub pool: Pool,
    pub forge: Arc<GithubForge>,
    ear: Ear,
    /// What goes on beside the pool.
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Drop for Life {
    fn drop(&mut self) {
        *self.ear.lock().unwrap() = None;
    }
}

impl Outside {
    pub fn new(
        github: Arc<FakeGitHub>,
        luck: Luck,
        clock: Clock,
        demand: Demand,
        min_idle: u32,
    ) -> Self {
        let organisation = github.organisation("acme");
        github.repository("acme", "widgets");
        let may = [
            ("organization_self_hosted_runners", Level::Write),
            ("organization_hooks", Level::Read),
            ("actions", Level::Read),
        ];
        let app = github.app("runners", may.map(|(name, level)| (name.to_owned(), level)).into());
        github.install(&app, "acme").unwrap();
        let keep = tempfile::tempdir().unwrap();
        let key = keep.path().join("key.pem");
        std::fs::write(&key, &app.private_key).unwrap();
        let ear = Ear::default();
        let hook = listen(&github, &organisation, ear.clone());
        let notebook = Notebook::new(luck.clone());
        Self {
            host: Host::new(github.clone(), luck, clock),
            wire: Arc::new(InMemory::new(github.clone(), notebook.clone())),
            github,
            clock,
            store: Store::in_memory().unwrap(),
            notebook,
            demand,
            min_idle,
            images: FakeWorld::new(clock),
            app: app.client_id,
            key,
            hook,
            ear,
            _keep: keep,
        }
    }

    pub async fn live(&self) -> Life {
        let clock = self.clock;
        let place = Place::new(&format!("{}/acme", self.github.web_url())).unwrap();
        let key = SecretFrom::File(self.key.clone());
        let credentials = Credentials::App { id: self.app.clone(), key, installation: None };
        let client = ClientConfig::new(place.clone(), credentials);
        let client = Client::new(client, self.wire.clone(), clock).unwrap();

        let name = ProfileName::new(PROFILE).unwrap();
        let max = self.min_idle + 50;
        let mut config = GithubConfig::new(OwnerId::new(OWNER).unwrap());
        config.repositories = vec!["acme/widgets".parse().unwrap()];
        let sources = self.demand.sources();
        let profile = GithubProfile { sources, ..GithubProfile::new(BTreeSet::new()) };
        config.profiles.insert(name.clone(), profile);
        let mut tasks = Vec::new();
        if self.demand.has_scale_set() {
            let service =
                ActionsService::new(Arc::new(client.clone()), self.wire.clone(), place, clock);
            let listener = self.listener(service, &name);
            listener.set_capacity(max);
            config.sources.push(listener.clone());
            config.registrars.push(listener.clone());
            tasks.push(tokio::spawn(async move { listener.run(&CancellationToken::new()).await }));
        }
        if self.demand.has_deliveries() {
            let webhook = WebhookConfig::new([Secret::new(WEBHOOK_SECRET.to_owned())]);
            let webhook = Arc::new(Webhook::new(&webhook, clock).unwrap());
            *self.ear.lock().unwrap() = Some(webhook.clone());
            tasks.push(tokio::spawn(recover(client.clone(), webhook.clone(), self.hook, clock)));
            config.sources.push(webhook);
        }
        let forge = Arc::new(GithubForge::start(client, config).unwrap());

        let forge_name = ForgeName::new("github").unwrap();
        let recipe = Recipe { profile: name, kind: RecipeKind::Micro {} };
        let resources = Resources { vcpus: 1, memory_mib: 256, ..Resources::default() };
        let mut profile = Profile::new(forge_name.clone(), recipe, resources);
        (profile.min_idle, profile.max) = (self.min_idle, max);
        let pool = Pool::start(PoolParts {
            hypervisor: Arc::new(self.host.clone()),
            forges: BTreeMap::from([(forge_name, forge.clone() as Arc<dyn Forge>)]),
            builder: Arc::new(self.images.builder()),
            store: self.store.clone(),
            events: EventLog::open(self.store.clone()).await.unwrap(),
            owner: OwnerId::new(OWNER).unwrap(),
            profiles: vec![profile],
            pace: Pace::default(),
            clock,
        });
        let pool = pool.await.unwrap();
        let _tasks = tasks.into_iter().map(AbortOnDropHandle::new).collect();
        Life { pool, forge, ear: self.ear.clone(), _tasks }
    }

    /// Jobs name the scale set as they name the profile elsewhere.
    fn listener(&self, service: ActionsService, profile: &ProfileName) -> Arc<ScaleSetListener> {
        let set = ScaleSetSpec { name: PROFILE.to_owned(), labels: Vec::new(), group: None };
        let config = ListenerConfig::new(set, profile.clone(), "simulation");
        Arc::new(ScaleSetListener::new(config, service, Arc::new(self.notebook.clone())))
    }
}

/// Deliveries come to whoever lives, and to nobody in between.
fn listen(github: &FakeGitHub, organisation: &Scope, ear: Ear) -> u64 {
    let hook =
        github.hook_in_memory(organisation, WEBHOOK_SECRET, move |headers, body| {
            match &*ear.lock().unwrap() {
                Some(webhook) => webhook.accept(headers, body).status(),
                None => StatusCode::BAD_GATEWAY,
            }
        });
    hook.try_into().unwrap()
}

async fn recover(client: Client, webhook: Arc<Webhook>, hook: u64, clock: Clock) {
    let hook = Hook::Organization { name: "acme".to_owned(), hook };
    let mut recovery = Recovery::new(hook, clock.now());
    loop {
        tokio::time::sleep(RECOVER_EVERY).await;
        // What fails is looked at again the next time.
        let _ = recovery.run(&client, &webhook).await;
    }
}
