#![allow(missing_docs, unused)]
use candle_core::{Result, Tensor, Var};
use std::collections::BTreeMap;
#[derive(Debug, Clone, Copy)]
pub struct AdamSettings {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
}
impl Default for AdamSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}
#[derive(Debug)]
pub struct Adam {}
impl Adam {
    pub fn new(v: &BTreeMap<String, Var>, s: AdamSettings) -> Result<Self> {
        unimplemented!()
    }
    pub fn step(
        &mut self,
        v: &BTreeMap<String, Var>,
        g: &BTreeMap<String, Tensor>,
        r: impl Fn(&str) -> f64,
    ) -> Result<()> {
        unimplemented!()
    }
}
