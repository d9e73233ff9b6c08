//! Builds the program that keeps sessions in guests: static, so that it runs in any guest of this processor.

use std::{env, fs, path::PathBuf, process::Command};

const SOURCE: &str = "guest/session.rs";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCE}");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let program = PathBuf::from(variable("OUT_DIR")).join("session");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--edition", "2024", "--crate-name", "session", "--crate-type", "bin"])
        .args(["--target", &variable("TARGET")])
        .args(["-C", "opt-level=z", "-C", "panic=abort", "-C", "lto=fat", "-C", "codegen-units=1"])
        .args(["-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static"])
        .arg(SOURCE)
        .arg("-o")
        .arg(&program);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    let built = rustc.output();
    match built {
        Ok(output) if output.status.success() => {}
        // Everything else works without it, so a host without a static C library may go on.
        failed => {
            let why = match failed {
                Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
                Err(error) => error.to_string(),
            };
            for line in why.lines().take(20) {
                println!("cargo::warning={line}");
            }
            println!(
                "cargo::warning=there will be no interactive sessions: their program could not be \
                 linked statically; install the static C library (Debian: libc6-dev, Fedora: \
                 glibc-static) and build again"
            );
            fs::write(&program, b"").expect("the build directory can be written to");
        }
    }
}
