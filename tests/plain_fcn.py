"""The references that the tests compare with: the networks of other code, layer by layer."""

from torch import nn
from torch.nn import functional as F


class PlainFCN(nn.Module):
    """VGG-16 and the deconvolution decoder written out, sharing no code with the package."""

    def __init__(self, num_classes: int, c: int = 64, skips: int = 4) -> None:
        super().__init__()
        self.skips = skips
        self.conv1_1 = nn.Conv2d(3, c, 3, padding=1)
        self.conv1_2 = nn.Conv2d(c, c, 3, padding=1)
        self.conv2_1 = nn.Conv2d(c, 2 * c, 3, padding=1)
        self.conv2_2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1)
        self.conv3_1 = nn.Conv2d(2 * c, 4 * c, 3, padding=1)
        self.conv3_2 = nn.Conv2d(4 * c, 4 * c, 3, padding=1)
        self.conv3_3 = nn.Conv2d(4 * c, 4 * c, 3, padding=1)
        self.conv4_1 = nn.Conv2d(4 * c, 8 * c, 3, padding=1)
        self.conv4_2 = nn.Conv2d(8 * c, 8 * c, 3, padding=1)
        self.conv4_3 = nn.Conv2d(8 * c, 8 * c, 3, padding=1)
        self.conv5_1 = nn.Conv2d(8 * c, 8 * c, 3, padding=1)
        self.conv5_2 = nn.Conv2d(8 * c, 8 * c, 3, padding=1)
        self.conv5_3 = nn.Conv2d(8 * c, 8 * c, 3, padding=1)
        self.deconv1 = nn.ConvTranspose2d(8 * c, 8 * c, 3, 2, 1, 1)
        self.deconv2 = nn.ConvTranspose2d(8 * c, 4 * c, 3, 2, 1, 1)
        self.deconv3 = nn.ConvTranspose2d(4 * c, 2 * c, 3, 2, 1, 1)
        self.deconv4 = nn.ConvTranspose2d(2 * c, c, 3, 2, 1, 1)
        self.deconv5 = nn.ConvTranspose2d(c, c // 2, 3, 2, 1, 1)
        self.bn1 = nn.BatchNorm2d(8 * c)
        self.bn2 = nn.BatchNorm2d(4 * c)
        self.bn3 = nn.BatchNorm2d(2 * c)
        self.bn4 = nn.BatchNorm2d(c)
        self.bn5 = nn.BatchNorm2d(c // 2)
        self.classifier = nn.Conv2d(c // 2, num_classes, 1)

    def forward(self, x):
        pool1 = F.max_pool2d(F.relu(self.conv1_2(F.relu(self.conv1_1(x)))), 2)
        pool2 = F.max_pool2d(F.relu(self.conv2_2(F.relu(self.conv2_1(pool1)))), 2)
        x = F.relu(self.conv3_2(F.relu(self.conv3_1(pool2))))
        pool3 = F.max_pool2d(F.relu(self.conv3_3(x)), 2)
        x = F.relu(self.conv4_2(F.relu(self.conv4_1(pool3))))
        pool4 = F.max_pool2d(F.relu(self.conv4_3(x)), 2)
        x = F.relu(self.conv5_2(F.relu(self.conv5_1(pool4))))
        pool5 = F.max_pool2d(F.relu(self.conv5_3(x)), 2)
        x = F.relu(self.deconv1(pool5))
        x = self.bn1(x + pool4 if self.skips >= 1 else x)
        x = F.relu(self.deconv2(x))
        x = self.bn2(x + pool3 if self.skips >= 2 else x)
        x = F.relu(self.deconv3(x))
        x = self.bn3(x + pool2 if self.skips >= 3 else x)
        x = F.relu(self.deconv4(x))
        x = self.bn4(x + pool1 if self.skips >= 4 else x)
        x = self.bn5(F.relu(self.deconv5(x)))
        return self.classifier(x)


class PlainScoreFCN(nn.Module):
    """FCN-32s, FCN-16s or FCN-8s written out after the authors' prototxt files.

    Takes what Caffe does: float BGR pictures 0..255 less their mean, [N, 3, H, W].
    """

    def __init__(
        self, num_classes: int, stride: int, c: int = 64, fc: int = 4096, at_once: bool = False
    ) -> None:
        super().__init__()
        self.stride = stride
        self.at_once = at_once
        widths = [3, c, c, 2 * c, 2 * c, *[4 * c] * 3, *[8 * c] * 6]
        depths = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}
        names = [f"{stage}_{n}" for stage, depth in depths.items() for n in range(1, depth + 1)]
        for name, i, o in zip(names, widths, widths[1:], strict=False):
            self.add_module(f"conv{name}", nn.Conv2d(i, o, 3, padding=100 if name == "1_1" else 1))
        self.fc6 = nn.Conv2d(8 * c, fc, 7)
        self.fc7 = nn.Conv2d(fc, fc, 1)
        self.score_fr = nn.Conv2d(fc, num_classes, 1)

        def upscore(kernel, step):
            return nn.ConvTranspose2d(num_classes, num_classes, kernel, step, bias=False)

        if stride == 32:
            self.upscore = upscore(64, 32)
        if stride <= 16:
            self.upscore2 = upscore(4, 2)
            self.score_pool4 = nn.Conv2d(8 * c, num_classes, 1)
        if stride == 16:
            self.upscore16 = upscore(32, 16)
        if stride == 8:
            self.upscore_pool4 = upscore(4, 2)
            self.score_pool3 = nn.Conv2d(4 * c, num_classes, 1)
            self.upscore8 = upscore(16, 8)

    def forward(self, picture):
        h, pools = picture, {}
        for stage, depth in enumerate((2, 2, 3, 3, 3), start=1):
            for position in range(1, depth + 1):
                h = F.relu(self.get_submodule(f"conv{stage}_{position}")(h))
            h = pools[stage] = F.max_pool2d(h, 2, stride=2, ceil_mode=True)
        h = F.relu(self.fc7(F.relu(self.fc6(h))))
        h = self.score_fr(h)
        rows, columns = picture.shape[2:]
        if self.stride == 32:
            return self.upscore(h)[:, :, 19 : 19 + rows, 19 : 19 + columns]
        h = self.upscore2(h)
        s = self.score_pool4(pools[4] * (0.01 if self.at_once else 1))
        h = h + s[:, :, 5 : 5 + h.shape[2], 5 : 5 + h.shape[3]]
        if self.stride == 16:
            return self.upscore16(h)[:, :, 27 : 27 + rows, 27 : 27 + columns]
        h = self.upscore_pool4(h)
        s = self.score_pool3(pools[3] * (0.0001 if self.at_once else 1))
        h = h + s[:, :, 9 : 9 + h.shape[2], 9 : 9 + h.shape[3]]
        return self.upscore8(h)[:, :, 31 : 31 + rows, 31 : 31 + columns]


class PlainFCNs(PlainFCN):
    """FCN-pytorch's FCNs: the same layers, but normalised before each addition."""

    def forward(self, x):
        pools = []
        for stage, depth in enumerate((2, 2, 3, 3, 3), start=1):
            for position in range(1, depth + 1):
                x = F.relu(self.get_submodule(f"conv{stage}_{position}")(x))
            x = F.max_pool2d(x, 2)
            pools.append(x)
        x = self.bn1(F.relu(self.deconv1(pools[4]))) + pools[3]
        x = self.bn2(F.relu(self.deconv2(x))) + pools[2]
        x = self.bn3(F.relu(self.deconv3(x))) + pools[1]
        x = self.bn4(F.relu(self.deconv4(x))) + pools[0]
        return self.classifier(self.bn5(F.relu(self.deconv5(x))))
