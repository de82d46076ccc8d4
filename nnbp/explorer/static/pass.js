"use strict";
// Runs the forward and backward pass of one sample: the program that nnbp/explorer/program.py makes of nnbp's pass.

const PRIMITIVES = {
  exp: Math.exp,
  expm1: Math.expm1,
  log: Math.log,
  log1p: Math.log1p,
  tanh: Math.tanh,
  sqrt: Math.sqrt,
  sin: Math.sin,
  cos: Math.cos,
  arctan: Math.atan,
  absolute: Math.abs,
  sign: Math.sign,
  negative: (x) => -x,
  square: (x) => x * x,
  reciprocal: (x) => 1 / x,
  add: (x, y) => x + y,
  subtract: (x, y) => x - y,
  multiply: (x, y) => x * y,
  divide: (x, y) => x / y,
  power: Math.pow,
  maximum: Math.max,
  minimum: Math.min,
  greater: (x, y) => +(x > y),
  greater_equal: (x, y) => +(x >= y),
  less: (x, y) => +(x < y),
  less_equal: (x, y) => +(x <= y),
  equal: (x, y) => +(x === y),
  not_equal: (x, y) => +(x !== y),
  where: (condition, x, y) => (condition ? x : y),
};

// Numbers from base64-encoded float64.
function decoded(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float64Array(bytes.buffer);
}

// A formula as a function from a list of inputs to a list of results.
function compiled(formula) {
  const steps = formula.steps.map(([name, ...operands]) => [PRIMITIVES[name], operands.map(read)]);
  const results = formula.results.map(read);
  const values = new Array(steps.length);
  function read([kind, item]) {
    if (kind === 0) return (inputs) => inputs[item];
    if (kind === 1) return () => values[item];
    const constant = Number(item);
    return () => constant;
  }
  return (inputs) => {
    steps.forEach(([apply, operands], i) => {
      values[i] = apply(...operands.map((operand) => operand(inputs)));
    });
    return results.map((result) => result(inputs));
  };
}

class Pass {
  constructor(program) {
    this.program = program;
    this.buffers = program.buffers.map((size) => new Float64Array(size));
    this.formulas = program.formulas.map(compiled);
    for (const [view, text] of program.constants) this.write(view, decoded(text));
  }

  // The elements of an array, row by row.
  read(view) {
    const out = new Float64Array(size(view));
    visit(view, (place, i) => {
      out[i] = this.buffers[view[0]][place];
    });
    return out;
  }

  write(view, values) {
    visit(view, (place, i) => {
      this.buffers[view[0]][place] = values[i];
    });
  }

  // z, a, delta and ∂C/∂a of each layer (null if ∂C/∂a is not computed), the cost, ∂C/∂x, and ∂C/∂theta.
  run(x, y, theta) {
    const { program } = this;
    this.write(program.x, x);
    this.write(program.y, y);
    this.write(program.theta, theta);
    const upstream = program.layers.map(() => null);
    program.operations.forEach((operation, i) => {
      program.layers.forEach((layer, l) => {
        if (layer.last === i) upstream[l] = this.read(layer.delta);
      });
      this.execute(operation);
    });
    const layers = program.layers.map((layer, l) => ({
      z: this.read(layer.z),
      a: this.read(layer.a),
      delta: this.read(layer.delta),
      da: upstream[l],
    }));
    return {
      layers,
      cost: this.read(program.cost)[0],
      dx: this.read(program.dx),
      gradient: this.read(program.gradient),
    };
  }

  execute([kind, ...operands]) {
    if (kind === "map") this.map(...operands);
    else if (kind === "gemm") this.gemm(...operands);
    else this.reduce(kind, ...operands);
  }

  map(number, inputs, outputs) {
    const [rows, columns] = shape(outputs[0]);
    const formula = this.formulas[number];
    const sources = inputs.map((view) => view && [this.buffers[view[0]], view[1], ...broadcast(view)]);
    const targets = outputs.map((view) => [this.buffers[view[0]], view[1], ...broadcast(view)]);
    const values = new Array(inputs.length);
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        sources.forEach((source, k) => {
          if (source) values[k] = source[0][source[1] + i * source[2] + j * source[3]];
        });
        formula(values).forEach((result, k) => {
          const [buffer, first, down, across] = targets[k];
          buffer[first + i * down + j * across] = result;
        });
      }
    }
  }

  gemm(a, b, out) {
    const [n, inner] = shape(a),
      m = shape(b)[1];
    const [A, B, C] = [a, b, out].map((view) => this.buffers[view[0]]);
    const [[a0, a1], [b0, b1], [c0, c1]] = [a, b, out].map((view) => view[3]);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < m; j++) {
        let sum = 0;
        for (let k = 0; k < inner; k++) sum += A[a[1] + i * a0 + k * a1] * B[b[1] + k * b0 + j * b1];
        C[out[1] + i * c0 + j * c1] = sum;
      }
    }
  }

  reduce(fold, a, axis, out) {
    const [rows, columns] = shape(a),
      values = this.read(a);
    const result = new Float64Array(axis ? rows : columns).fill(fold === "sum" ? 0 : -Infinity);
    values.forEach((value, at) => {
      const k = axis ? Math.floor(at / columns) : at % columns;
      result[k] = fold === "sum" ? result[k] + value : Math.max(result[k], value);
    });
    this.write(out, result);
  }
}

function size(view) {
  return view[2].reduce((product, n) => product * n, 1);
}

// Every array as a matrix: a vector is a row.
function shape(view) {
  return [1, 1, ...view[2]].slice(-2);
}

// Strides of a matrix, 0 along an axis of one element, which is repeated.
function broadcast(view) {
  const strides = [0, 0, ...view[3]].slice(-2);
  return shape(view).map((n, axis) => (n === 1 ? 0 : strides[axis]));
}

function visit(view, act) {
  const [rows, columns] = shape(view),
    [down, across] = [0, 0, ...view[3]].slice(-2);
  for (let i = 0, at = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++, at++) act(view[1] + i * down + j * across, at);
  }
}
