//! A virtual machine for a test: QEMU with the flags that make it fast, and a guest agent to talk to.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use runner_core::image::Boot;
use serde_json::{Value, json};

/// How long a guest may take for anything, on a machine that has other things to do.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running machine. It is killed when this is dropped.
pub struct Machine {
    qemu: Child,
    agent: BufReader<UnixStream>,
    monitor: BufReader<UnixStream>,
    directory: PathBuf,
    started: Instant,
}

impl Machine {
    pub fn start(boot: &Boot, directory: &Path, args: &[String]) -> Self {
        let Boot::Kernel { kernel, initrd, command_line } = boot else {
            panic!("{boot:?}");
        };
        // The path of a socket is short.
        let sockets = tempfile::tempdir().unwrap();
        let (agent, monitor) = (sockets.path().join("agent"), sockets.path().join("monitor"));
        let started = Instant::now();
        let mut qemu = Command::new("qemu-system-x86_64")
            .args("-accel tcg,thread=multi,tb-size=64 -cpu max -smp 1 -m 192".split(' '))
            .args("-M q35,sata=off,smbus=off -nodefaults -no-user-config -display none".split(' '))
            .args("-no-reboot -device virtio-serial-pci".split(' '))
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", command_line])
            .arg("-serial")
            .arg(format!("file:{}", directory.join("console").display()))
            .arg("-chardev")
            .arg(format!("socket,id=agent,path={},server=on,wait=off", agent.display()))
            .args(["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"])
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .args(args)
            .stdin(Stdio::null())
            .stderr(fs::File::create(directory.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut connect = |path: &Path| {
            loop {
                if let Ok(stream) = UnixStream::connect(path) {
                    stream.set_read_timeout(Some(DEADLINE)).unwrap();
                    return BufReader::new(stream);
                }
                let ended = qemu.try_wait().unwrap();
                let said = || fs::read_to_string(directory.join("stderr")).unwrap();
                assert!(ended.is_none(), "qemu ended: {}", said());
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let (agent, monitor) = (connect(&agent), connect(&monitor));
        Self { qemu, agent, monitor, directory: directory.to_owned(), started }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns once the agent answers.
    pub fn agent(&mut self) {
        let started = Instant::now();
        // An agent that is about to die takes a question with it.
        let patience = |agent: &BufReader<UnixStream>, patience| {
            agent.get_ref().set_read_timeout(Some(patience)).unwrap();
        };
        patience(&self.agent, Duration::from_secs(2));
        loop {
            assert!(started.elapsed() < DEADLINE, "no agent: {}", self.console());
            let id = self.started.elapsed().as_micros() as u64;
            let sync = json!({"execute": "guest-sync-delimited", "arguments": {"id": id}});
            // The first byte makes the agent forget what it may have read half of.
            let question = [b"\xff", sync.to_string().as_bytes(), b"\n"].concat();
            self.agent.get_mut().write_all(&question).unwrap();
            while let Some(reply) = reply(&mut self.agent) {
                if reply["return"] == json!(id) {
                    patience(&self.agent, DEADLINE);
                    return;
                }
            }
        }
    }

    /// Kills the agent and waits for the next one.
    pub fn kill_agent(&mut self) {
        let begun = |machine: &Self| machine.console().matches("starting the guest agent").count();
        let (old, agents) = (self.run("pidof qemu-ga"), begun(self));
        self.exec("kill $(pidof qemu-ga)");
        // Nothing is asked of an agent that may be about to die: it would take the question with it.
        let started = Instant::now();
        while begun(self) == agents {
            assert!(started.elapsed() < DEADLINE, "no new agent: {}", self.console());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.agent();
        assert_ne!(self.run("pidof qemu-ga"), old);
    }

    /// Starts a shell command and does not wait for it.
    pub fn exec(&mut self, command: &str) -> u64 {
        let arguments = json!({"path": "sh", "arg": ["-c", command], "capture-output": true});
        self.ask("guest-exec", arguments)["return"]["pid"].as_u64().unwrap()
    }

    /// The output of a shell command and whether it succeeded, if the agent lives to tell.
    fn output(&mut self, command: &str) -> Option<(String, bool)> {
        let pid = self.exec(command);
        loop {
            let reply = self.ask("guest-exec-status", json!({"pid": pid}));
            let status = reply.get("return")?;
            if status["exited"] == json!(true) {
                let output = status["out-data"].as_str().unwrap_or_default();
                return Some((decode(output), status["exitcode"] == json!(0)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The output of a shell command that succeeds.
    pub fn run(&mut self, command: &str) -> String {
        let (output, success) = self.output(command).expect("an agent");
        assert!(success, "{command}: {output}{}", self.console());
        output
    }

    /// Runs a shell command until it succeeds.
    pub fn wait_for(&mut self, command: &str) {
        let started = Instant::now();
        while !self.output(command).expect("an agent").1 {
            assert!(started.elapsed() < DEADLINE, "{command}: {}", self.console());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn power_button(&mut self) {
        reply(&mut self.monitor);
        for command in ["qmp_capabilities", "system_powerdown"] {
            writeln!(self.monitor.get_mut(), "{}", json!({"execute": command})).unwrap();
            reply(&mut self.monitor);
        }
    }

    pub fn shutdown(&mut self) {
        writeln!(self.agent.get_mut(), "{}", json!({"execute": "guest-shutdown"})).unwrap();
    }

    /// Whether the machine ends by itself within `limit`.
    pub fn ended(&mut self, limit: Duration) -> bool {
        let started = Instant::now();
        while started.elapsed() < limit {
            if self.qemu.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.join("console")).unwrap()).into_owned()
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let question = json!({"execute": command, "arguments": arguments});
        writeln!(self.agent.get_mut(), "{question}").unwrap();
        reply(&mut self.agent).expect("an answer in time")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The next line, or none in time.
fn reply(stream: &mut BufReader<UnixStream>) -> Option<Value> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).ok()?;
    assert!(!line.is_empty(), "the socket was closed");
    let line = line.strip_prefix(b"\xff").unwrap_or(&line);
    Some(serde_json::from_slice(line).unwrap_or_default())
}

/// Base64, as the agent has it.
fn decode(text: &str) -> String {
    let digits = text.bytes().filter_map(|digit| {
        Some(match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        })
    });
    let (mut bytes, mut bits, mut filled) = (Vec::new(), 0_u32, 0);
    for digit in digits {
        bits = bits << 6 | u32::from(digit);
        filled += 6;
        if filled >= 8 {
            filled -= 8;
            bytes.push((bits >> filled) as u8);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
