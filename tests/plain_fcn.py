"""The reference that the tests compare with: the network of the tutorial, layer by layer."""

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
