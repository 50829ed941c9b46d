//! `guidevane gpu`.

use std::process::Command;

use guidevane_tests::{
    daemon::binary,
    nvml::{Gpu, Instance, Process, Script, Standin},
};
use serde_json::Value;

fn guidevane(standin: &Standin, arguments: &[&str]) -> String {
    let output = Command::new(binary())
        .arg("gpu")
        .arg("--library")
        .arg(standin.library())
        .args(arguments)
        .output()
        .expect("run guidevane");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

fn standin() -> Standin {
    let busy = Gpu {
        utilization: 97,
        clock: 495,
        reasons: 0x20,
        processes: vec![Process { pid: 4321, time: 60 }],
        gpm: Some(55),
        ..Gpu::default()
    };
    let instance = Instance {
        uuid: "MIG-5".to_owned(),
        gpu_instance: 5,
        memory_used: 1,
        memory_total: 4,
        gpm: None,
        processes: Vec::new(),
    };
    let divided = Gpu { instances: vec![instance], ..Gpu::default() };
    let lost = Gpu { lost: true, ..Gpu::default() };
    Standin::new(Script { gpus: vec![busy, divided, lost], ..Script::default() })
}

#[test]
fn the_table_shows_each_gpu_and_instance() {
    let text = guidevane(&standin(), &[]);
    assert!(text.starts_with("driver 580.95.05; "), "{text}");
    let line = |start: &str| {
        let found = text.lines().find(|line| line.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("no line with {start}:\n{text}"))
    };
    let busy = line("0  GPU-00000000-");
    assert!(busy.contains(" 97 ") && busy.contains(" 495 "), "{busy}");
    assert!(busy.ends_with("software thermal slowdown"), "{busy}");
    assert!(line("1  MIG-5").contains(" 25 "), "{text}");
    assert_eq!(line("GPU 2"), "GPU 2: the GPU is lost");
}

#[test]
fn json_holds_everything_that_is_read_and_why_the_rest_is_not() {
    let shown: Value = serde_json::from_str(&guidevane(&standin(), &["-o", "json"])).expect("JSON");
    let [busy, divided, instance] = &shown["gpus"].as_array().expect("GPUs")[..] else {
        panic!("three expected: {shown:#}")
    };
    assert_eq!(busy["process_time"][0]["pid"], 4321);
    assert_eq!((&busy["gpm"]["sm"], &busy["utilization"]), (&0.55.into(), &0.97.into()));
    assert_eq!(busy["clocks"]["reasons"][0], "software thermal slowdown");
    assert_eq!(busy["unavailable"], serde_json::json!({}));
    assert_eq!(divided["unavailable"]["gpm"], "not supported");
    assert_eq!((&instance["uuid"], &instance["instance"]["gpu_instance"]), (&"MIG-5".into(), &5.into()));
    assert_eq!(shown["silent"]["2"], "the GPU is lost");
    assert!(shown["calls"].as_u64().is_some_and(|calls| calls > 20), "{shown:#}");
}

#[test]
fn without_a_driver_the_command_says_so() {
    let output =
        Command::new(binary()).args(["gpu", "--library", "/nowhere.so"]).output().expect("run guidevane");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.starts_with("error: no NVIDIA driver: /nowhere.so"), "{errors}");
}
