// Softmax regression in plain JavaScript: a weight for each pair of input and class, a bias for each class. A model is
// { weight, bias }, flat, row after row: weight[input * classes + class].

const BATCH = 10;

/** The model after so many passes of minibatch gradient descent, and the last pass's mean loss. `start` stays. */
export function train(start, { features, labels }, { epochs, rate }) {
  const model = { weight: [...start.weight], bias: [...start.bias] };
  let loss = NaN;
  for (let epoch = 0; epoch < epochs; epoch++) {
    loss = 0;
    for (let begin = 0; begin < labels.length; begin += BATCH) {
      const [inputs, wanted] = [features, labels].map((all) => all.slice(begin, begin + BATCH));
      loss += descend(model, inputs, wanted, rate) / labels.length;
    }
  }
  return { model, loss };
}

/** One step down the batch's cross-entropy; the sum of its examples' losses before. */
function descend({ weight, bias }, inputs, wanted, rate) {
  const likely = inputs.map((input) => likelihoods({ weight, bias }, input));
  inputs.forEach((input, example) => {
    bias.forEach((_, one) => {
      const error = likely[example][one] - (one === wanted[example] ? 1 : 0);
      const step = (rate / inputs.length) * error;
      bias[one] -= step;
      input.forEach((value, at) => (weight[at * bias.length + one] -= step * value));
    });
  });
  return -wanted.reduce((sum, label, example) => sum + Math.log(likely[example][label]), 0);
}

/** How likely the input is of each class, by the model. */
function likelihoods({ weight, bias }, input) {
  const weighted = (own, one) => input.reduce((sum, value, at) => sum + value * weight[at * bias.length + one], own);
  const scores = bias.map(weighted);
  const highest = Math.max(...scores); // without it exp could overflow
  const powers = scores.map((score) => Math.exp(score - highest));
  const total = powers.reduce((sum, power) => sum + power);
  return powers.map((power) => power / total);
}
