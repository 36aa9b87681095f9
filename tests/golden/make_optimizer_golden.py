"""Twenty steps of each run of optimizer.toml by PyTorch in double precision, for
crates/qn-train/tests/golden_optimizer.rs to compare with.

    pip install torch numpy safetensors
    python tests/golden/make_optimizer_golden.py

The steps, momentum, weight decay and schedules are torch.optim's own: what is written here is only what the method
adds, the gradient's change by the class gradients. Parameters, inputs and labels come from the integer hash of
make_golden.py. Stored are the parameters after steps 1, 2, 5 and 20 and the loss before each step.
"""

import pathlib
import tomllib

import torch
from make_golden import uniform
from safetensors.numpy import save_file
from torch import nn
from torch.func import functional_call, jvp, vjp

HERE = pathlib.Path(__file__).parent
STEPS, KEPT = 20, (1, 2, 5, 20)
SAMPLES, BATCH, CLASSES = 96, 24, 10
DEFAULTS = {
    "arch": "perceptron", "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "momentum-on": "update", "gamma": 0.9,
    "beta2": 0.999, "epsilon": 1e-8, "sam-rho": 0.05, "damping": 0.0, "dampening": 0.0, "nesterov": False, "weight-decay": 0.0, "schedule": "constant",
    "basis": "paper", "lambda": "own", "newton": "diagonal", "newton-scale": "unit", "max-newton-step": None,
    "logit-scale": 1.0, "class-statistics": "exact",
}  # fmt: skip


def network(name):
    if name == "normalised":
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, bias=True), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(),
            nn.Linear(12, 10),
        )  # fmt: skip
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 10))


class Run:
    """One run: a network whose parameters are one vector, and the averages of eqs. (16) and (17)."""

    def __init__(self, options):
        self.o = {**DEFAULTS, **options}
        self.net = network(self.o["arch"]).train()
        named = list(self.net.named_parameters())
        self.names, self.shapes = [n for n, _ in named], [p.shape for _, p in named]
        self.sizes = [p.numel() for _, p in named]
        start = torch.from_numpy(uniform(1, sum(self.sizes)))
        for (n, p), part in zip(named, start.split(self.sizes)):
            part *= 2.0 / (p[0].numel() if p.dim() > 1 else 4) ** 0.5
        self.theta = nn.Parameter(start)
        self.c, self.squares = torch.zeros(CLASSES, len(start)), torch.zeros(CLASSES)
        self.seen = torch.zeros(CLASSES)
        self.x = torch.from_numpy(uniform(2, SAMPLES * 64)).reshape(SAMPLES, 1, 8, 8)
        # Squares of the counter: some batches lack some classes.
        self.y = (torch.arange(SAMPLES) ** 2 + torch.arange(SAMPLES) // BATCH) % CLASSES

    def parameters(self, theta):
        return {n: t.reshape(s) for n, t, s in zip(self.names, theta.split(self.sizes), self.shapes)}

    def logits(self, theta, x):
        return self.o["logit-scale"] * functional_call(self.net, self.parameters(theta), (x,))

    def frozen_logits(self, theta, x, part):
        """Logits of a part of the batch, batch norm's statistics being those of the whole, as constants."""
        norm, at = self.net[1], self.parameters(theta)
        with torch.no_grad():
            inner = nn.functional.conv2d(x, at["0.weight"], at["0.bias"])
            mean, variance = inner.mean((0, 2, 3)), inner.var((0, 2, 3), unbiased=False)
        inner = nn.functional.conv2d(x[part], at["0.weight"], at["0.bias"])
        inner = nn.functional.batch_norm(inner, mean, variance, at["1.weight"], at["1.bias"], eps=norm.eps)
        inner = nn.functional.max_pool2d(inner.relu(), 3).flatten(1)
        return self.o["logit-scale"] * nn.functional.linear(inner, at["5.weight"], at["5.bias"])

    def class_gradients(self, x, y):
        """c_k of eq. (8), zero rows for absent classes."""
        rows = torch.zeros_like(self.c)
        for k in y.unique():
            theta = self.theta.detach().requires_grad_()
            if self.o["class-statistics"] == "frozen":
                z = self.frozen_logits(theta, x, y == k)[:, k]
            else:
                z = self.logits(theta, x)[y == k, k]
            (rows[k],) = torch.autograd.grad(z.mean(), theta)
        return rows

    def observe(self, x, y):
        """Takes a batch into the averages."""
        p = self.logits(self.theta.detach(), x).softmax(1)
        self.m = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]).mean(0)
        c, counts = self.class_gradients(x, y), torch.bincount(y, minlength=CLASSES)
        spread = p * (1 - p)
        own = torch.stack([spread[y == k, k].sum() for k in range(CLASSES)])
        gram = c @ c.T
        by_model = torch.nan_to_num((gram @ self.m @ gram).diag() / gram.diag())
        lam = {
            "class": own / counts.clamp(min=1) * gram.diag(),
            "all": spread.mean(0) * gram.diag(),
            "model": by_model,
        }.get(self.o["lambda"], own / len(y) * gram.diag())
        gamma, here = self.o["gamma"], counts > 0
        self.c[here] = gamma * self.c[here] + (1 - gamma) * c[here]
        self.squares[here] = gamma * self.squares[here] + (1 - gamma) * lam[here] ** 2
        self.seen += here
        correction = 1 / (1 - gamma ** self.seen.clamp(min=1))
        self.c_hat = correction[:, None] * self.c
        self.lam_hat = torch.where(self.seen > 0, (correction * self.squares).sqrt(), 1.0)

    def along(self, v, x, y):
        """V G Vᵀ for rows V and the Gauss-Newton matrix of the batch."""
        theta = self.theta.detach()
        rows = []
        for direction in v:
            z, rz = jvp(lambda t: self.logits(t, x), (theta,), (direction,))
            p = z.softmax(1)
            u = p * (rz - (p * rz).sum(1, keepdim=True)) / len(y)
            rows.append(vjp(lambda t: self.logits(t, x), theta)[1](u)[0])
        return v @ torch.stack(rows).T

    def matrix(self, v, x, y):
        if self.o["lambda"] == "model":
            return v @ self.c_hat.T @ self.m @ self.c_hat @ v.T
        if self.o["lambda"] == "exact":
            return self.along(v, x, y)
        raise ValueError(self.o["lambda"])

    def change(self, x, y, lr):
        """The matrix that is added to the identity, or to η times it, in the rows V: W V as a function of g."""
        unit = nn.functional.normalize(self.c_hat, dim=1)
        longest = self.o["max-newton-step"] or float("inf")
        scale = 1.0 if self.o["newton-scale"] == "unit" else lr

        def steps(lam):
            return (1 / (lam + self.o["damping"])).clamp(max=longest)

        known = self.seen > 0
        if self.o["newton"] == "span" or self.o["basis"] == "orthonormal":
            q, r = torch.linalg.qr(unit[known].T)
            q = (q * r.diag().sign()).T
        if self.o["newton"] == "span":
            beta, u = torch.linalg.eigh(self.matrix(q, x, y))
            return q, u @ torch.diag(scale * steps(beta.abs()) - lr) @ u.T
        v = q if self.o["basis"] == "orthonormal" else unit[known]
        lam = self.matrix(v, x, y).diag() if self.o["lambda"] == "exact" else self.lam_hat[known]
        return v, torch.diag(scale * steps(lam) - lr)

    def train(self):
        o = self.o
        # With unit Newton steps the learning rate is within the update, which PyTorch multiplies by one.
        whole = o["optimizer"] != "qn" or o["newton-scale"] == "lr"
        adam = {"lr": o["lr"], "betas": (o["momentum"], o["beta2"]), "eps": o["epsilon"]}
        if o["optimizer"] == "adam":
            sgd = torch.optim.Adam([self.theta], **adam)
        elif o["optimizer"] == "adamw":
            sgd = torch.optim.AdamW([self.theta], weight_decay=o["weight-decay"], **adam)
        else:
            sgd = torch.optim.SGD(
                [self.theta], lr=o["lr"], momentum=o["momentum"], dampening=o["dampening"], nesterov=o["nesterov"]
            )
        if o["schedule"] == "cosine":
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, STEPS)
        elif o["schedule"] == "one-cycle":
            schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, o["lr"], total_steps=STEPS, cycle_momentum=False)
        else:
            schedule = torch.optim.lr_scheduler.ConstantLR(sgd, factor=1.0)
        buffer, kept, losses = None, [], []
        for step in range(STEPS):
            part = slice(step % 4 * BATCH, (step % 4 + 1) * BATCH)
            x, y = self.x[part], self.y[part]
            loss = nn.functional.cross_entropy(self.logits(self.theta, x), y)
            losses.append(loss.item())
            (g,) = torch.autograd.grad(loss, self.theta)
            if o["optimizer"] == "sam":
                there = (self.theta + o["sam-rho"] * g / g.norm()).detach().requires_grad_()
                (g,) = torch.autograd.grad(nn.functional.cross_entropy(self.logits(there, x), y), there)
            if o["optimizer"] != "adamw":
                g = g + o["weight-decay"] * self.theta.detach()
            lr = sgd.param_groups[0]["lr"]
            if o["optimizer"] == "qn":
                self.observe(x, y)
                # What multiplies g in all: η + Vᵀ M V, divided by the η with which PyTorch multiplies it.
                v, m = self.change(x, y, lr)

                def precondition(g):
                    return g + v.T @ m @ (v @ g) / lr
            else:

                def precondition(g):
                    return g

            if o["momentum-on"] == "gradient" or not whole:
                # The same recursion as torch.optim.SGD's, on what is named.
                new = g if o["momentum-on"] == "gradient" else lr * precondition(g)
                buffer = new if buffer is None else o["momentum"] * buffer + (1 - o["dampening"]) * new
                update = lr * precondition(buffer) if o["momentum-on"] == "gradient" else buffer
                with torch.no_grad():
                    self.theta -= update
            else:
                self.theta.grad = precondition(g)
            # A step without a gradient does nothing, but the schedule wants one.
            sgd.step()
            self.theta.grad = None
            schedule.step()
            if step + 1 in KEPT:
                kept.append(self.theta.detach().clone())
        return torch.stack(kept), torch.tensor(losses)


def main():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    out = {}
    for name, options in tomllib.loads((HERE / "optimizer.toml").read_text()).items():
        theta, losses = Run(options).train()
        out[f"{name}.theta"], out[f"{name}.loss"] = theta, losses
        print(f"{name:24} {losses[0]:.4f} {losses[4]:.4f} {losses[-1]:.4f}")
    save_file({k: v.numpy() for k, v in out.items()}, HERE / "optimizer.safetensors")


if __name__ == "__main__":
    main()
