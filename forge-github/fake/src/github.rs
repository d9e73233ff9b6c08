//! The handle: starts a GitHub, makes what is in it, and tells what happened.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use fake_host::{Clock, Tls};
use http::{HeaderMap, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, lookup_host},
    task::JoinHandle,
};
use tokio_rustls::rustls::crypto::ring;

use crate::{
    access::{Caller, Grant, Permissions, Token, secret},
    app::{App, AppRecord, Installation, private_key},
    artifact::zip,
    downloads::Download,
    exchange::{Addresses, Refusal},
    faults::FaultRule,
    hook::{Hook, Owner},
    ids::random_text,
    job::{Conclusion, Job, JobRequest, JobStatus},
    limits::Limits,
    program::{AssignedJob, RunnerError},
    record::{Call, Violation},
    runner::Runner,
    scope::Scope,
    server::{Host, serve, serve_stream},
    state::{Options, Shared},
    webhooks::{Weather, WebhookFaults, send_all},
};

/// How long GitHub holds a request for work open.
const LONG_POLL: Duration = Duration::from_secs(50);

/// What is asked for cannot be: something it needs is not there, or not so.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Impossible(String);

impl From<Refusal> for Impossible {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.message)
    }
}

/// How a GitHub is to be.
#[derive(Debug, Clone)]
pub struct Builder {
    listen: String,
    ghes: bool,
    tls: bool,
    clock: Clock,
    limits: Option<Limits>,
    long_poll: Duration,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".to_owned(),
            ghes: false,
            tls: false,
            clock: Clock::system(),
            limits: None,
            long_poll: LONG_POLL,
        }
    }
}

impl Builder {
    /// Where to listen: `127.0.0.1:0` if nothing is said. Whoever can connect can do all that `/_fake/` can,
    /// so it is for this machine and its guests.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = address.into();
        self
    }

    /// As a GitHub Enterprise Server: the API is under `/api/v3`, there are no limits, and scale sets must
    /// acquire their jobs.
    #[must_use]
    pub fn ghes(mut self) -> Self {
        self.ghes = true;
        self
    }

    /// With TLS. The certificate is [`FakeGitHub::certificate`].
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// By this clock.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// With these limits, in place of github.com's, or none on a GitHub Enterprise Server.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Holds requests for work and messages open for so long, and not 50 seconds.
    #[must_use]
    pub fn long_poll(mut self, long_poll: Duration) -> Self {
        self.long_poll = long_poll;
        self
    }

    /// Starts it, in the runtime that this is called in.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(self) -> io::Result<FakeGitHub> {
        // For the HTTP client of webhooks. Whoever was first has chosen.
        let _ = ring::default_provider().install_default();
        let address = lookup_host(&self.listen).await?.next();
        let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let main = TcpListener::bind(address).await?;
        // All of 127/8 is this machine: files come from another host, as GitHub's do.
        let other: IpAddr = match address.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => IpAddr::from([127, 0, 0, 2]),
            ip => ip,
        };
        let files = TcpListener::bind((other, 0)).await?;
        let address = main.local_addr()?;
        let (acceptor, certificate) = if self.tls {
            let names = ["localhost", "127.0.0.1", "127.0.0.2", "10.0.2.2"].map(str::to_owned);
            let tls = Tls::new(names.into_iter().chain([address.ip().to_string()]))?;
            (Some(tls.acceptor), Some(tls.certificate))
        } else {
            (None, None)
        };
        let limits = if self.ghes { Limits::NONE } else { Limits::GITHUB };
        let options = Options {
            ghes: self.ghes,
            https: self.tls,
            long_poll: self.long_poll,
            storage_port: files.local_addr()?.port(),
            storage_host: other.to_string(),
        };
        let scheme = if self.tls { "https" } else { "http" };
        let web = format!("{scheme}://{address}");
        let home = Addresses {
            api: if self.ghes { format!("{web}/api/v3") } else { web.clone() },
            web,
            storage: format!("{scheme}://{}", files.local_addr()?),
        };
        let limits = self.limits.unwrap_or(limits);
        let shared = Arc::new(Shared::new(self.clock, limits, options, home.clone()));
        let tasks = vec![
            tokio::spawn(serve(main, acceptor.clone(), shared.clone(), Host::Main)),
            tokio::spawn(serve(files, acceptor, shared.clone(), Host::Storage)),
            tokio::spawn(send_all(shared.clone())),
        ];
        Ok(FakeGitHub { shared, home, certificate, tasks })
    }
}

/// A GitHub. It ends when this is dropped, and every connection with it.
pub struct FakeGitHub {
    shared: Arc<Shared>,
    home: Addresses,
    certificate: Option<String>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for FakeGitHub {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A runner as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunnerView {
    /// Its number.
    pub id: i64,
    /// Where it is registered.
    pub scope: Scope,
    /// Its name.
    pub name: String,
    /// Its group's number.
    pub group: i64,
    /// In lower case.
    pub labels: Vec<String>,
    /// Whether its program is connected.
    pub online: bool,
    /// The job that it runs.
    pub job: Option<i64>,
}

/// A job as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobView {
    /// Its number.
    pub id: i64,
    /// Its run's.
    pub run: i64,
    /// Where it is in its life.
    pub status: JobStatus,
    /// How it ended, when it has.
    pub conclusion: Option<Conclusion>,
    /// The name of the runner that took it.
    pub runner: Option<String>,
}

impl FakeGitHub {
    /// github.com, on a port of this machine.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> io::Result<Self> {
        Self::builder().start().await
    }

    /// Says how it is to be.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What the API's addresses begin with.
    pub fn api_url(&self) -> &str {
        &self.home.api
    }

    /// What the addresses of pages begin with. A scale set is configured by `{web_url}/ORG`.
    pub fn web_url(&self) -> &str {
        &self.home.web
    }

    /// Where files come from: another host, which must never see a token.
    pub fn storage_url(&self) -> &str {
        &self.home.storage
    }

    /// The certificate to trust, as PEM, if it has one.
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// Serves one connection of the API over any stream, without TLS, until it ends. Over a stream in memory
    /// it works under a paused clock, which sockets do not.
    ///
    /// # Cancel safety
    /// Dropping it breaks the connection.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        serve_stream(stream, self.shared.clone()).await;
    }

    /// Its clock.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Lets time pass, and does what it does to tokens, registrations and jobs.
    pub fn advance(&self, time: Duration) {
        self.shared.clock.advance(time);
        self.shared.change(|_| ());
    }

    /// Makes an enterprise, if there is none of this slug.
    pub fn enterprise(&self, slug: &str) -> Scope {
        self.shared.change(|state| state.add_enterprise(slug));
        Scope::Enterprise(slug.to_owned())
    }

    /// Makes an organisation, if there is none of this login.
    pub fn organisation(&self, login: &str) -> Scope {
        self.shared.change(|state| state.add_organisation(login, None));
        Scope::Organisation(login.to_owned())
    }

    /// Makes an organisation of an enterprise, and that too, if there is none.
    pub fn organisation_of(&self, enterprise: &str, login: &str) -> Scope {
        self.shared.change(|state| state.add_organisation(login, Some(enterprise)));
        Scope::Organisation(login.to_owned())
    }

    /// Makes a private repository, if there is none. Its owner is a user, if it is nobody yet.
    pub fn repository(&self, owner: &str, name: &str) -> Scope {
        self.shared.change(|state| {
            state.add_repository(owner, name);
        });
        Scope::Repository { owner: owner.to_owned(), name: name.to_owned() }
    }

    /// Makes a repository public.
    pub fn publish(&self, owner: &str, name: &str) {
        self.shared.change(|state| state.add_repository(owner, name).private = false);
    }

    /// Puts a file into a repository.
    pub fn file(&self, owner: &str, name: &str, path: &str, content: impl Into<Vec<u8>>) {
        self.shared.change(|state| {
            let id = state.add_repository(owner, name).id;
            state.files.insert((id, path.to_owned()), content.into());
        });
    }

    /// A repository's number, or `None` if there is none of this name.
    pub fn repository_id(&self, owner: &str, name: &str) -> Option<i64> {
        self.shared.look().repository(owner, name).ok().map(|repository| repository.id)
    }

    /// Makes a classic token with these scopes, such as `repo`, `admin:org`, `manage_runners:enterprise`.
    pub fn classic_token(&self, login: &str, scopes: &[&str]) -> String {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.token("ghp_", Caller::Classic { login: login.to_owned(), scopes })
    }

    /// Makes a fine-grained token for what an account owns.
    pub fn fine_grained_token(&self, account: &str, permissions: Permissions) -> String {
        let grant = Grant { account: account.to_owned(), permissions, repositories: None };
        self.token("github_pat_", Caller::FineGrained(grant))
    }

    fn token(&self, prefix: &str, caller: Caller) -> String {
        let token = secret(prefix);
        let held = Token { caller, expires: None };
        self.shared.change(|state| state.tokens.insert(token.clone(), held));
        token
    }

    /// Ends a token. What is no token is no concern.
    pub fn revoke(&self, token: &str) {
        self.shared.change(|state| state.tokens.remove(token));
    }

    /// Ends the tokens of all installations, as if their hour were over.
    pub fn expire_installation_tokens(&self) {
        self.shared.change(|state| {
            state.tokens.retain(|_, token| !matches!(token.caller, Caller::Installation { .. }));
        });
    }

    /// Makes an App. The first of a process takes a second or so, for its key.
    pub fn app(&self, slug: &str, permissions: Permissions) -> App {
        self.shared.change(|state| {
            if state.account("mona").is_err() {
                state.add_account("mona", true, None);
            }
            let app = AppRecord {
                id: state.next_id(),
                client_id: format!("Iv23li{}", random_text(14)),
                slug: slug.to_owned(),
                owner: "mona".to_owned(),
                permissions,
                events: vec!["workflow_job".to_owned()],
                created: state.now(),
            };
            let (id, client_id, slug) = (app.id, app.client_id.clone(), app.slug.clone());
            state.apps.push(app);
            App { id, client_id, slug, private_key: private_key() }
        })
    }

    /// Changes what an App may, everywhere it is installed. Tokens that it has keep what they had.
    pub fn set_permissions(&self, app: &App, permissions: Permissions) {
        self.shared.change(|state| {
            if let Some(record) = state.apps.iter_mut().find(|record| record.id == app.id) {
                record.permissions = permissions;
            }
        });
    }

    /// Installs an App for an organisation or user, in all repositories. Returns the installation's number.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn install(&self, app: &App, account: &str) -> Result<i64, Impossible> {
        self.install_in(app, account, None)
    }

    /// Installs an App in some of an account's repositories. Returns the installation's number.
    ///
    /// # Errors
    /// When there is no such account, or one of the repositories is not there.
    pub fn install_selected(
        &self,
        app: &App,
        account: &str,
        repositories: &[&str],
    ) -> Result<i64, Impossible> {
        let ids: Result<Vec<_>, _> = {
            let state = self.shared.look();
            repositories.iter().map(|name| state.repository(account, name).map(|r| r.id)).collect()
        };
        self.install_in(app, account, Some(ids?))
    }

    fn install_in(
        &self,
        app: &App,
        account: &str,
        repositories: Option<Vec<i64>>,
    ) -> Result<i64, Impossible> {
        self.shared.change(|state| {
            let is_user = state.account(account)?.is_user;
            let installation = Installation {
                id: state.next_id(),
                app: app.id,
                account: account.to_owned(),
                kind: if is_user { "User" } else { "Organization" },
                repositories,
                created: state.now(),
            };
            let id = installation.id;
            state.installations.push(installation);
            Ok(id)
        })
    }

    /// Takes an App away from an account, and its tokens with it.
    pub fn uninstall(&self, installation: i64) {
        self.shared.change(|state| state.uninstall(installation));
    }

    /// Makes a webhook for `workflow_job`, of a repository or an organisation. Returns its number.
    pub fn hook(&self, scope: &Scope, url: &str, secret: &str) -> i64 {
        self.add_hook(Owner::Scope(scope.clone()), url, secret)
    }

    /// Makes a webhook that is delivered in memory: `receive` gets headers and body, and says which status it
    /// answers. It goes astray as others do, and works under a paused clock, which sockets do not. Returns its
    /// number.
    pub fn hook_in_memory(
        &self,
        scope: &Scope,
        secret: &str,
        receive: impl Fn(&HeaderMap, &[u8]) -> StatusCode + Send + Sync + 'static,
    ) -> i64 {
        let id = self.add_hook(Owner::Scope(scope.clone()), "https://in.memory/", secret);
        self.shared.change(|state| state.receivers.insert(id, Arc::new(receive)));
        id
    }

    /// Sets the webhook of an App. Returns its number, which the API never says.
    pub fn app_hook(&self, app: &App, url: &str, secret: &str) -> i64 {
        self.add_hook(Owner::App(app.id), url, secret)
    }

    fn add_hook(&self, owner: Owner, url: &str, secret: &str) -> i64 {
        self.shared.change(|state| {
            let (id, now) = (state.next_id(), state.now());
            state.hooks.push(Hook {
                id,
                owner,
                url: url.to_owned(),
                secret: Some(secret.to_owned()),
                content_type: "json".to_owned(),
                insecure_ssl: false,
                events: vec!["workflow_job".to_owned()],
                active: true,
                created: now,
                updated: now,
                last_response: None,
            });
            id
        })
    }

    /// How webhooks go astray from now on.
    pub fn webhook_faults(&self, faults: WebhookFaults) {
        self.shared.change(|state| {
            let held = state.weather.held;
            state.weather = Weather::new(faults);
            state.weather.held = held;
        });
    }

    /// Keeps webhooks back until [`release_webhooks`](Self::release_webhooks).
    pub fn hold_webhooks(&self) {
        self.shared.change(|state| state.weather.held = true);
    }

    /// Lets go what was kept back: each so many times, and the last first if `reversed`.
    pub fn release_webhooks(&self, copies: usize, reversed: bool) {
        self.shared.change(|state| state.release_webhooks(copies, reversed));
    }

    /// How many webhooks are on their way: queued, kept back, or not answered yet.
    pub fn undelivered(&self) -> usize {
        let state = self.shared.look();
        state.deliveries.values().filter(|delivery| delivery.outcome.is_none()).count()
    }

    /// Queues a job. Returns its number.
    ///
    /// # Errors
    /// When the repository's name is none, or the run is not one of its.
    pub fn enqueue(&self, job: JobRequest) -> Result<JobView, Impossible> {
        self.shared.change(|state| {
            let (_, id) = state.enqueue(job)?;
            Ok(state.jobs.get(id).map(Job::view).ok_or_else(Refusal::not_found)?)
        })
    }

    /// Lets a job go on that waits for approval.
    ///
    /// # Errors
    /// When there is no such job.
    pub fn approve(&self, job: i64) -> Result<(), Impossible> {
        Ok(self.shared.change(|state| state.approve(job))?)
    }

    /// Ends a job, whoever has it.
    ///
    /// # Errors
    /// When there is none, or it is over.
    pub fn complete(&self, job: i64, conclusion: Conclusion) -> Result<(), Impossible> {
        Ok(self.shared.change(|state| state.complete(job, conclusion))?)
    }

    /// A job as it is.
    pub fn job(&self, id: i64) -> Option<JobView> {
        self.shared.look().jobs.get(id).map(Job::view)
    }

    /// All jobs, the oldest first.
    pub fn jobs(&self) -> Vec<JobView> {
        self.shared.look().jobs.all().map(Job::view).collect()
    }

    /// All runners of all scopes, the oldest first.
    pub fn runners(&self) -> Vec<RunnerView> {
        self.shared.look().runners.values().map(Runner::view).collect()
    }

    /// Registers another runner of the same name, which GitHub promises never to do. Returns its number.
    ///
    /// # Errors
    /// When there is no such runner.
    pub fn double(&self, runner: i64) -> Result<i64, Impossible> {
        self.shared.change(|state| {
            let twin = state.runners.get(&runner).cloned().ok_or_else(Refusal::not_found)?;
            let id = state.next_id();
            state.runners.insert(id, Runner { id, session: None, job: None, ..twin });
            Ok(id)
        })
    }

    /// Keeps files with a run, as an artifact. Returns its number.
    ///
    /// # Errors
    /// When there is no such run.
    pub fn artifact(
        &self,
        run: i64,
        name: &str,
        files: &[(&str, &[u8])],
    ) -> Result<i64, Impossible> {
        self.artifact_archive(run, name, zip(files.iter().copied()))
    }

    /// Keeps with a run what is said to be a zip archive. Returns its number.
    ///
    /// # Errors
    /// When there is no such run.
    pub fn artifact_archive(
        &self,
        run: i64,
        name: &str,
        archive: impl Into<Bytes>,
    ) -> Result<i64, Impossible> {
        Ok(self.shared.change(|state| state.add_artifact(run, name, archive.into()))?)
    }

    /// What the runner's program can be had as.
    pub fn downloads(&self) -> Vec<Download> {
        self.shared.look().downloads.clone()
    }

    /// Offers other versions of the runner's program.
    pub fn set_downloads(&self, downloads: Vec<Download>) {
        self.shared.change(|state| state.downloads = downloads);
    }

    /// Whether scale sets must acquire the jobs that they are offered, or are just given them. GitHub
    /// Enterprise Servers are known for the former, github.com for the latter, and it has changed.
    pub fn set_must_acquire(&self, must_acquire: bool) {
        self.shared.change(|state| state.must_acquire = must_acquire);
    }

    /// Ends the sessions of all scale sets, as when their listeners were not heard of for too long.
    pub fn expire_scale_set_sessions(&self) {
        self.shared.change(|state| state.expire_sessions());
    }

    /// Ends the tokens of the queues of all scale sets, as if their hour were over. The sessions stay.
    pub fn expire_queue_tokens(&self) {
        self.shared.change(|state| state.expire_queue_tokens());
    }

    /// Connects as a runner's program. Returns its session.
    ///
    /// # Errors
    /// When the registration is gone, or in use.
    pub fn connect(&self, encoded_jit_config: &str) -> Result<String, RunnerError> {
        self.shared.change(|state| state.connect(encoded_jit_config))
    }

    /// Waits for a runner's job. `None` after `wait`.
    ///
    /// # Errors
    /// When the session is gone.
    ///
    /// # Cancel safety
    /// A job that was given out stays the runner's, and the next call returns it.
    pub async fn next_job(
        &self,
        session: &str,
        wait: Duration,
    ) -> Result<Option<AssignedJob>, RunnerError> {
        self.shared.wait_for_job(session, wait).await
    }

    /// Says how a runner's job ended. The runner is gone with it.
    ///
    /// # Errors
    /// When the session is gone, or has no job.
    pub fn finish(&self, session: &str, conclusion: Conclusion) -> Result<(), RunnerError> {
        self.shared.change(|state| state.finish_job(session, conclusion))
    }

    /// Ends a runner's program, in the middle of a job or not.
    ///
    /// # Errors
    /// When the session is gone.
    pub fn disconnect(&self, session: &str) -> Result<(), RunnerError> {
        self.shared.change(|state| state.disconnect(session))
    }

    /// Orders a fault. Of several that strike, the one that was ordered first does.
    pub fn fault(&self, rule: FaultRule) {
        self.shared.change(|state| state.faults.add(rule));
    }

    /// Takes all orders of faults back.
    pub fn clear_faults(&self) {
        self.shared.change(|state| state.faults.clear());
    }

    /// Makes the chance of faults repeat itself.
    pub fn seed_faults(&self, seed: u64) {
        self.shared.change(|state| state.faults.seed(seed));
    }

    /// Changes the limits.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.change(|state| state.limits = limits);
    }

    /// All requests so far, but those under `/_fake/`.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.look().record.calls.clone()
    }

    /// What GitHub's description does not allow, so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.look().record.violations.clone()
    }

    /// The same, and forgets it: for a test that does something wrong on purpose.
    pub fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut self.shared.look().record.violations)
    }

    /// Waits until something is so.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn until(&self, mut is_so: impl FnMut(&Self) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is_so(self) {
                return;
            }
            changed.await;
        }
    }
}

impl Job {
    fn view(&self) -> JobView {
        JobView {
            id: self.id,
            run: self.run,
            status: self.status,
            conclusion: self.conclusion,
            runner: self.runner.as_ref().map(|by| by.name.clone()),
        }
    }
}

impl Runner {
    fn view(&self) -> RunnerView {
        RunnerView {
            id: self.id,
            scope: self.scope.clone(),
            name: self.name.clone(),
            group: self.group,
            labels: self.labels.iter().map(|label| label.name.clone()).collect(),
            online: self.session.is_some(),
            job: self.job,
        }
    }
}
