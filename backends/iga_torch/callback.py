"""A callback of Lightning, less its base class: of the one package or of the other.

It knows when a trainer calls what; `iga_torch.lightning` and `iga_torch.pytorch_lightning`, which
alone import them, make it a callback of theirs.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from iga_torch.spectrum import spectrum
from iga_torch.wrapper import IGA


class Adjusting:
    """Wraps a module of a LightningModule while it is fitted; see `iga_torch.lightning`."""

    def __init__(self, module: str, *args: Any, prefix: str = "iga", **kwargs: Any) -> None:
        super().__init__()
        if not isinstance(module, str) or not module:
            raise ValueError(
                f"module: expected the name of a part of the LightningModule, got {module!r}; put "
                "the layers into a module of their own, as self.net, and pass 'net'"
            )
        self._name, self._prefix = module, prefix
        self._arguments = args, kwargs
        self._model: IGA | None = None
        self._places: list[str] = []
        self._state: Mapping[str, Tensor] | None = None  # until there is a model to load it

    @property
    def model(self) -> IGA | None:
        """The wrapper, after training too; None before."""
        return self._model

    @property
    def state_key(self) -> str:
        """What this callback's part of a checkpoint is called."""
        return f"IGACallback[{self._name}]"

    def on_fit_start(self, trainer: Any, pl_module: nn.Module) -> None:  # noqa: ARG002
        """Wrap the module.

        By now `setup` and `configure_model` have made it, weights were loaded and optimizers
        configured: nothing that goes by the names of parameters sees another one.
        """
        args, kwargs = self._arguments
        network = _part(pl_module, self._name)
        if isinstance(network, IGA):
            if args or kwargs:
                raise ValueError(
                    f"module: expected one that is not adjusted yet, got an IGA as {self._name!r} "
                    "and settings beside it; leave them out, or wrap it here alone"
                )
            self._model = network
        else:
            if self._model is None or self._model.network is not network:
                self._model = IGA(network, *args, **kwargs)
            # A module may be held in several places.
            modules = list(pl_module.named_modules(remove_duplicate=False))
            self._places = [place for place, module in modules if module is network]
            _put(pl_module, self._places, self._model)
        if self._state is not None:
            self._model.load_adjustment_state(self._state)
            self._state = None

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int  # noqa: ARG002
    ) -> None:  # fmt: skip
        """Log the spectrum of the last kernel, as tensors where they are.

        At steps that the trainer hands to its loggers only: to log something takes Lightning longer
        than to compute this.
        """
        every = trainer.log_every_n_steps
        if self._model is None or trainer.barebones or not every or trainer.global_step % every:
            return
        found = spectrum(self._model.transform).items()
        named = {f"{self._prefix}/{name}": number for name, number in found}
        pl_module.log_dict(named, on_step=True, on_epoch=False)

    def teardown(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:  # noqa: ARG002
        """Leave the LightningModule as it was."""
        self._unwrap(pl_module)

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:  # noqa: ARG002
        """Leave the LightningModule as it was."""
        self._unwrap(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what the adjustment needs to go on, for a checkpoint."""
        return {} if self._model is None else self._model.adjustment_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was made, in this process or in another one.

        It is that of the first process. In others it is of other points, which they notice.
        """
        if self._model is None:
            self._state = state_dict
        else:
            self._model.load_adjustment_state(state_dict)

    def _unwrap(self, pl_module: nn.Module) -> None:
        if self._model is not None:
            _put(pl_module, self._places, self._model.network)
        self._places = []


def _part(whole: nn.Module, name: str) -> nn.Module:
    names = [place for place, _ in whole.named_modules(remove_duplicate=False) if place]
    if name in names:
        return whole.get_submodule(name)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else "name one of them"
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    raise ValueError(
        f"module: expected a module of {type(whole).__name__}, got {name!r} and not any of "
        f"{listed or 'none'}; {hint}"
    )


def _put(whole: nn.Module, places: list[str], module: nn.Module) -> None:
    for place in places:
        whole.set_submodule(place, module)
