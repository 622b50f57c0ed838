from scratchdiff import ops
from scratchdiff.autograd import Tape, Tensor, op
from scratchdiff.gradcheck import gradcheck
