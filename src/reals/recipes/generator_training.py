"""How the generator is trained, apart from the loop's numbers and the objective."""

from dataclasses import dataclass

from reals.diffusion.repa import RepaConfig
from reals.recipes.preview import PreviewConfig
from reals.training.trackers import TensorBoard, Tracker


@dataclass(frozen=True, kw_only=True)
class GeneratorTraining:
    """What stage 2 does besides minimising its objective."""

    repa: RepaConfig = RepaConfig()
    """Alignment of hidden tokens with the semantic encoder, as a further loss."""
    preview: PreviewConfig = PreviewConfig()
    """Samples and their Fréchet distance on the way."""
    tracker: Tracker = TensorBoard()
    """Where the log goes besides log.jsonl."""
    compile: bool = False
    """Compile the network with torch.compile: a minute or more at the start, then faster steps on a GPU."""
    checkpoint_activations: bool = False
    """Compute the network's activations a second time in the backward pass instead of keeping them."""
